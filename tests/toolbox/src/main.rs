//! `manx-toolbox`: what runs in the pods of tests, and on hosts that talk with them. Static, small, quick to build.
//!
//! Servers say who asked them and at which address, so that a test sees every translation on the way. Under the name
//! `pause` it holds a pod's namespaces. Its options are read by hand: a command-line crate would be most of the program.

mod answer;
mod args;
mod dial;
mod flow;
mod pause;
mod serve;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use args::Args;

const USAGE: &str = "\
manx-toolbox serve [--tcp PORT] [--udp PORT] [--http PORT]
    prints its ports once they are open; answers every line, datagram and request with {\"pod\":…,\"client\":…,\"local\":…}, over IPv4 and IPv6; without options
    --http 8080 --tcp 8081 --udp 8081. HTTP: /healthz says 200 until /fail, and again after /heal
manx-toolbox get [--udp | --http PATH] [--timeout MS] [--from ADDRESS] ADDRESS PORT
    prints one answer; fails when there is none in time (2000 ms), or when its HTTP status is not 2xx
manx-toolbox flow [--udp] [--every MS] [--timeout MS] [--from ADDRESS] ADDRESS PORT
    asks again and again (100 ms) over one connection until SIGTERM; a line for each loss, and a summary at the end
manx-toolbox send ADDRESS PORT BYTES       manx-toolbox receive ADDRESS PORT BYTES
    moves so much to or from a server over TCP and prints how long it took
manx-toolbox pause
    waits, and reaps what is orphaned, until SIGTERM";

fn main() -> ExitCode {
    let mut words = std::env::args();
    let name = words.next().unwrap_or_default();
    let words: Vec<String> = words.collect();
    let done = if name.rsplit('/').next() == Some("pause") { pause::pause() } else { dispatch(&words) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manx-toolbox: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(words: &[String]) -> io::Result<()> {
    let Some((command, words)) = words.split_first() else {
        return Err(io::Error::other(USAGE));
    };
    match command.as_str() {
        "serve" => serve(&Args::read(words, &["tcp", "udp", "http"], &[])?),
        "get" => get(&Args::read(words, &["http", "timeout", "from"], &["udp"])?),
        "flow" => flow(&Args::read(words, &["every", "timeout", "from"], &["udp"])?),
        "send" | "receive" => load(command, &Args::read(words, &["from"], &[])?),
        "pause" => pause::pause(),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(io::Error::other(format!("{command}: no such command\n{USAGE}"))),
    }
}

fn serve(args: &Args) -> io::Result<()> {
    let mut ports =
        serve::Ports { tcp: args.number("tcp")?, udp: args.number("udp")?, http: args.number("http")? };
    if ports == serve::Ports::default() {
        ports = serve::Ports { tcp: Some(8081), udp: Some(8081), http: Some(8080) };
    }
    let stop = pause::termination()?;
    println!("{}", serve::start(ports)?);
    // An error would mean that the thread which waits for signals is gone.
    stop.recv().map_err(io::Error::other)
}

fn get(args: &Args) -> io::Result<()> {
    let to = dial::To::read(args)?;
    if let Some(path) = args.value("http") {
        println!("{}", to.http(path)?);
        return Ok(());
    }
    let mut line = to.open(args.is_set("udp"))?;
    println!("{}", line.ask("get", to.timeout)?);
    Ok(())
}

fn flow(args: &Args) -> io::Result<()> {
    let to = dial::To::read(args)?;
    let every = Duration::from_millis(args.number("every")?.unwrap_or(100));
    let stop = pause::termination()?;
    let summary = flow::run(&to, args.is_set("udp"), every, &stop);
    println!("{summary}");
    Ok(())
}

fn load(command: &str, args: &Args) -> io::Result<()> {
    let to = dial::To::read(args)?;
    let bytes: u64 = args.word(2, "BYTES")?.parse().map_err(|_| io::Error::other("BYTES is a number"))?;
    let took = if command == "send" { to.send(bytes)? } else { to.receive(bytes)? };
    let seconds = took.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
    let rate = bytes as f64 * 8.0 / seconds / 1e6;
    println!("{{\"bytes\":{bytes},\"seconds\":{seconds:.3},\"mbit_per_second\":{rate:.2}}}");
    Ok(())
}
