//! The owner of a kernel's routes, as `agent/src/shell/kernel.rs` has it.

use manx_agent::node::fib::{Changes, Learned};
use manx_kernel::fib::{Input, Output};
use manx_kernel::model::Op;

use crate::world::World;

/// What may wait for the owner of routes.
#[derive(Debug, Clone, Copy)]
enum Ready {
    Local,
    Event,
    Learned,
    Timeout,
}

impl World {
    pub(crate) fn kernel_turn(&mut self, host: usize) -> bool {
        // What was asked a moment ago is carried out now: meanwhile others may have changed something.
        if let Some(asked) = self.agent(host).and_then(|agent| agent.asked.take()) {
            self.exchange(host, asked);
        }
        let now = self.now;
        let Some(agent) = self.agent(host) else { return false };
        while let Some(output) = agent.fib.poll() {
            match output {
                Output::Event(_) => {}
                output => {
                    agent.asked = Some(output);
                    return true;
                }
            }
        }
        let news = self.hosts[host].kernel.has_news();
        let Some(agent) = self.agent(host) else { return false };
        let waits = [
            (agent.local.is_some(), Ready::Local),
            (news, Ready::Event),
            (!agent.learned.is_empty(), Ready::Learned),
            (agent.fib.deadline().is_some_and(|due| due <= now), Ready::Timeout),
        ];
        let ready: Vec<Ready> =
            waits.into_iter().filter(|(waits, _)| *waits).map(|(_, ready)| ready).collect();
        if ready.is_empty() {
            return false;
        }
        match ready[self.noise.below(ready.len())] {
            Ready::Local => self.take_local(host),
            Ready::Event => {
                // What we no longer want is no surprise when it vanishes.
                self.take_local(host);
                self.take_event(host);
            }
            Ready::Learned => self.take_learned(host),
            Ready::Timeout => self.tell_fib(host, Input::Timeout),
        }
        true
    }

    fn tell_fib(&mut self, host: usize, input: Input) {
        let now = self.now;
        if let Some(agent) = self.agent(host) {
            agent.fib.handle(input, now);
        }
    }

    fn take_local(&mut self, host: usize) {
        let Some(agent) = self.agent(host) else { return };
        let Some(local) = agent.local.take() else { return };
        let fib = &agent.fib;
        let changes = agent.wanted.set_local(local, |within| fib.in_sets(within));
        self.desire(host, changes);
    }

    fn take_event(&mut self, host: usize) {
        if let Some(event) = self.hosts[host].kernel.hear() {
            self.tell_fib(host, Input::Observed(event));
        }
    }

    fn take_learned(&mut self, host: usize) {
        let Some(agent) = self.agent(host) else { return };
        let Some(batch) = agent.learned.pop_front() else { return };
        let mut changes = Changes::default();
        let mut settled = false;
        for learned in batch {
            settled |= learned == Learned::Settled;
            agent.wanted.learn(learned, &mut changes);
        }
        self.desire(host, changes);
        if settled {
            self.log(format_args!("node{host}: BGP has settled"));
            self.tell_fib(host, Input::KeepStale(false));
        }
        // There is room again for what the speaker has to tell.
        self.poke(host, crate::agent::Task::Bgp);
    }

    fn desire(&mut self, host: usize, Changes { sets, routes }: Changes) {
        if !sets.is_empty() {
            self.tell_fib(host, Input::Sets(sets));
        }
        if !routes.is_empty() {
            self.tell_fib(host, Input::Desire(routes));
        }
    }

    /// One exchange with the kernel.
    fn exchange(&mut self, host: usize, asked: Output) {
        let kernel = &mut self.hosts[host].kernel;
        let answer = match asked {
            Output::Dump => Input::Dumped(if self.noise.chance(10) { None } else { Some(kernel.dump()) }),
            Output::Resolve(addresses) => {
                let answers = addresses.into_iter().map(|address| (address, kernel.resolve(address)));
                Input::Resolved(answers.collect())
            }
            Output::Apply(ops) => self.apply(host, &ops),
            Output::Event(_) => return,
        };
        self.tell_fib(host, answer);
    }

    fn apply(&mut self, host: usize, ops: &[Op]) -> Input {
        // Now and then the answers are lost: nobody knows how many were carried out.
        let lost = self.noise.chance(10).then(|| self.noise.below(ops.len() + 1));
        let kernel = &mut self.hosts[host].kernel;
        let carried = ops.iter().take(lost.unwrap_or(ops.len())).map(|op| kernel.apply(op));
        let results: Vec<_> = carried.collect();
        Input::Applied(lost.is_none().then_some(results))
    }
}
