//! Pods that ask for something, and the moment in which nobody knows yet what they ask for.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::node::pods::{LookedUp, NamespaceNotes, PodName, PodNotes};

/// The lag that a live watch is granted, and the patience with the API server.
const LAG: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(1);

/// The UID of the pods of these tests.
const UID: &str = "u1";

fn name(pod: &str) -> PodName {
    PodName { namespace: "default".to_owned(), name: pod.to_owned() }
}

fn pod(annotations: &[(&str, &str)]) -> PodNotes {
    let annotations = annotations.iter().map(|(key, value)| (format!("manx.dev/{key}"), (*value).to_owned()));
    PodNotes { uid: UID.to_owned(), annotations: annotations.collect(), ..PodNotes::default() }
}

fn fixed(address: &str) -> PodNotes {
    pod(&[("ipAddrs", address)])
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl Scene {
    /// A node with an IPv4 pool and a watch that is live and shows nothing yet.
    fn watching() -> Self {
        let mut scene = Self::new();
        scene.configure_with(&[("v4", "10.244.0.0/24")], NamespaceNotes::default());
        scene.show(&[], true);
        scene
    }

    /// The same pools, with the namespace `default` known.
    fn configure_with(&mut self, pools: &[(&str, &str)], notes: NamespaceNotes) {
        let pools: Vec<Pool> = pools.iter().map(pool).collect();
        let open = pod_pools(&pools);
        let namespaces = Namespaces::new([("default".to_owned(), Arc::new(notes))].into());
        let open = open.iter().map(|(name, pool)| (name.clone(), pool.clone()));
        let intent = Intent { pod_pools: PodPools::of(open, namespaces), pools, ..Intent::default() };
        self.feed(Input::Intent(Arc::new(intent)));
    }

    fn show(&mut self, pods: &[(&str, PodNotes)], live: bool) {
        let pods = pods.iter().map(|(pod, notes)| (name(pod), Arc::new(notes.clone())));
        self.feed(Input::Pods { pods: Arc::new(pods.collect()), live });
    }

    fn add_with_uid(&mut self, container: &str) -> RequestId {
        let mut request = add(container);
        request.pod = request.pod.map(|pod| RpcPod { uid: Some(UID.to_owned()), ..pod });
        self.call(Request::Add(request))
    }

    fn addresses(&self, request: RequestId) -> Vec<String> {
        match self.reply(request) {
            Some(Reply::Assigned(assignment)) => {
                assignment.addresses.iter().map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn refusal(&self, request: RequestId) -> (u32, String) {
        match self.reply(request) {
            Some(Reply::Error(error)) => (error.code, error.msg.clone()),
            other => panic!("{other:?}"),
        }
    }

    /// Time goes on to the next deadline, which must be after exactly this long.
    fn wait(&mut self, long: Duration) {
        assert_eq!(self.node.deadline(), Some(self.now + long), "the next deadline");
        self.now += long;
        self.feed(Input::Timeout);
    }

    fn looked_up(&mut self, container: &str, found: Option<PodNotes>) {
        let found = found.map(|pod| LookedUp { pod: Some(pod), namespace: Some(NamespaceNotes::default()) });
        self.feed(Input::LookedUp { pod: name(container), found });
    }

    fn questions(&self) -> usize {
        self.seen.iter().filter(|output| matches!(output, Output::LookUp(_))).count()
    }

    fn events(&self) -> Vec<(Trouble, String)> {
        let event = |output: &Output| match output {
            Output::PodEvent { trouble, note, .. } => Some((*trouble, note.clone())),
            _ => None,
        };
        self.seen.iter().filter_map(event).collect()
    }
}

#[test]
fn a_pod_that_is_shown_gets_what_it_asks_for_at_once() {
    let mut scene = Scene::watching();
    let notes = pod(&[("ipAddrs", "10.244.0.77"), ("hwAddr", "0a:58:0a:f4:00:4d")]);
    scene.show(&[("a", notes)], true);
    let request = scene.add_with_uid("a");
    let Some(Reply::Assigned(assignment)) = scene.reply(request) else { panic!("assigned") };
    assert_eq!(assignment.addresses, [address("10.244.0.77")]);
    assert_eq!(assignment.mac.as_deref(), Some("0a:58:0a:f4:00:4d"));
    assert_eq!(scene.questions(), 0);
}

#[test]
fn a_pod_that_is_not_shown_yet_waits_for_the_watch() {
    let mut scene = Scene::watching();
    let request = scene.add_with_uid("a");
    assert_eq!(scene.reply(request), None);
    scene.now += LAG / 2;
    scene.show(&[("a", fixed("10.244.0.77"))], true);
    assert_eq!(scene.addresses(request), ["10.244.0.77"]);
    assert_eq!(scene.questions(), 0);
}

#[test]
fn a_watch_that_is_late_is_overtaken_by_one_question() {
    let mut scene = Scene::watching();
    let request = scene.add_with_uid("a");
    scene.wait(LAG);
    assert_eq!((scene.questions(), scene.reply(request)), (1, None));
    scene.looked_up("a", Some(fixed("10.244.0.77")));
    assert_eq!(scene.addresses(request), ["10.244.0.77"]);
}

#[test]
fn a_pod_that_the_api_server_does_not_know_starts_without_annotations() {
    let mut scene = Scene::watching();
    let request = scene.add_with_uid("a");
    scene.wait(LAG);
    scene.feed(Input::LookedUp { pod: name("a"), found: Some(LookedUp::default()) });
    assert_eq!(scene.addresses(request).len(), 1);
    assert!(!scene.seen.contains(&Output::Unheard(name("a"))));
}

#[test]
fn nobody_waits_longer_than_a_second_and_after_that_nobody_until_the_api_server_speaks() {
    let mut scene = Scene::watching();
    let first = scene.add_with_uid("a");
    scene.wait(LAG);
    scene.wait(PATIENCE - LAG);
    assert_eq!(scene.addresses(first).len(), 1);
    assert!(scene.seen.contains(&Output::Unheard(name("a"))));
    let second = scene.add_with_uid("b");
    assert_eq!(scene.addresses(second).len(), 1);
    assert_eq!(scene.questions(), 1, "the first question is still open");
    scene.looked_up("a", None);
    let third = scene.add_with_uid("c");
    assert_eq!(scene.addresses(third).len(), 1);
    assert_eq!(scene.questions(), 2, "one question finds out whether it is back");
    scene.looked_up("c", Some(pod(&[])));
    let fourth = scene.add_with_uid("d");
    assert_eq!(scene.reply(fourth), None, "it answers again");
    scene.show(&[("d", fixed("10.244.0.77"))], true);
    assert_eq!(scene.addresses(fourth), ["10.244.0.77"]);
}

#[test]
fn while_the_watch_is_broken_the_api_server_is_asked_at_once_and_an_error_is_an_answer() {
    let mut scene = Scene::watching();
    scene.show(&[], false);
    let request = scene.add_with_uid("a");
    assert_eq!((scene.questions(), scene.reply(request)), (1, None));
    scene.looked_up("a", None);
    assert_eq!(scene.addresses(request).len(), 1);
}

#[test]
fn a_new_pod_of_an_old_name_does_not_get_what_the_old_one_asked_for() {
    let mut scene = Scene::watching();
    let old = PodNotes { uid: "old".to_owned(), ..fixed("10.244.0.66") };
    scene.show(&[("a", old.clone())], true);
    let request = scene.add_with_uid("a");
    assert_eq!(scene.reply(request), None);
    scene.show(&[("a", fixed("10.244.0.77"))], true);
    assert_eq!(scene.addresses(request), ["10.244.0.77"]);
    // One that is gone by the time that the API server is asked gets what any pod gets.
    scene.show(&[("b", old.clone())], true);
    let request = scene.add_with_uid("b");
    scene.wait(LAG);
    scene.looked_up("b", Some(old));
    assert_ne!(scene.addresses(request), ["10.244.0.66"]);
}

#[test]
fn a_pod_of_a_new_namespace_waits_for_its_namespace_too() {
    let mut scene = Scene::new();
    scene.show(&[("a", pod(&[]))], true);
    let request = scene.add_with_uid("a");
    assert_eq!(scene.reply(request), None);
    let annotations = [("manx.dev/ipv4pools".to_owned(), "second".to_owned())].into();
    let notes = NamespaceNotes { annotations, ..NamespaceNotes::default() };
    scene.configure_with(&[("v4", "10.244.0.0/24"), ("second", "10.9.0.0/24")], notes);
    assert!(scene.addresses(request)[0].starts_with("10.9.0."));
}

#[test]
fn a_repeated_add_keeps_what_it_got_whatever_the_annotations_say_by_now() {
    let mut scene = Scene::watching();
    scene.show(&[("a", pod(&[("ipAddrs", "10.244.0.77"), ("hwAddr", "0a:58:0a:f4:00:4d")]))], true);
    let first = scene.add_with_uid("a");
    scene.show(&[("a", pod(&[("ipAddrs", "10.244.0.78")]))], true);
    let second = scene.add_with_uid("a");
    scene.show(&[("a", pod(&[("ipAddrs", "rubbish")]))], true);
    let mut scene_after = scene.restarted();
    scene_after.show(&[], true);
    scene_after.configure(&[("v4", "10.244.0.0/24")]);
    let third = scene_after.add_with_uid("a");
    let Some(Reply::Assigned(assignment)) = scene_after.reply(third) else { panic!("assigned") };
    assert_eq!(assignment.addresses, [address("10.244.0.77")]);
    assert_eq!(assignment.mac.as_deref(), Some("0a:58:0a:f4:00:4d"));
    let _ = (first, second);
}

#[test]
fn a_repeated_add_of_one_that_waits_is_answered_like_the_first() {
    let mut scene = Scene::watching();
    let requests = [scene.add_with_uid("a"), scene.add_with_uid("a")];
    scene.show(&[("a", fixed("10.244.0.77"))], true);
    for request in requests {
        assert_eq!(scene.addresses(request), ["10.244.0.77"]);
    }
    assert_eq!(scene.node.ipam.endpoints().count(), 1);
}

#[test]
fn a_del_ends_an_add_that_waits() {
    let mut scene = Scene::watching();
    let request = scene.add_with_uid("a");
    scene.call(Request::Del(del("a")));
    assert!(scene.refusal(request).1.contains("was deleted while it waited"));
    scene.show(&[("a", fixed("10.244.0.77"))], true);
    assert_eq!(scene.node.ipam.endpoints().count(), 0);
    assert_eq!(scene.events(), []);
}

#[test]
fn an_add_that_comes_before_the_configuration_waits_for_all_of_it() {
    let mut scene = Scene::blank(Recovered::default());
    let request = scene.call(Request::Add(add("a")));
    scene.configure(&[("v4", "10.244.0.0/24"), ("v6", "fd00:10:244::/112")]);
    assert_eq!(scene.addresses(request).len(), 2);
    let mut scene = Scene::blank(Recovered::default());
    let request = scene.call(Request::Add(add("a")));
    scene.wait(Duration::from_secs(10));
    assert_eq!(scene.refusal(request).0, Code::TRY_AGAIN.0);
}

#[test]
fn annotations_are_about_the_primary_interface_and_the_runtime_goes_before_them() {
    let mut scene = Scene::watching();
    let notes = pod(&[("ipAddrs", "10.244.0.77"), ("hwAddr", "0a:58:0a:f4:00:4d")]);
    scene.show(&[("a", notes)], true);
    let second = AddRequest { ifname: "net1".to_owned(), ..add("a") };
    let request = scene.call(Request::Add(second));
    let Some(Reply::Assigned(assignment)) = scene.reply(request) else { panic!("assigned") };
    assert!(assignment.addresses != [address("10.244.0.77")] && assignment.mac.is_none());
    let mac = Some("0a:00:00:00:00:01".to_owned());
    let primary = AddRequest { addresses: vec![address("10.244.0.88")], mac: mac.clone(), ..add("a") };
    let request = scene.call(Request::Add(primary));
    let Some(Reply::Assigned(assignment)) = scene.reply(request) else { panic!("assigned") };
    assert_eq!((assignment.addresses.as_slice(), &assignment.mac), (&[address("10.244.0.88")][..], &mac));
}

#[test]
fn where_nobody_watches_nobody_waits() {
    let mut scene = Scene::new();
    let request = scene.add_with_uid("a");
    assert_eq!((scene.addresses(request).len(), scene.questions()), (1, 0));
}

#[test]
fn whoever_cannot_have_what_it_asks_for_is_told_why_by_error_and_event() {
    let mut scene = Scene::watching();
    scene.show(
        &[
            ("bad", fixed("10.244.0.300")),
            ("holder", fixed("10.244.0.77")),
            ("late", fixed("10.244.0.77")),
            ("nowhere", fixed("192.0.2.1")),
            ("family", pod(&[("ipFamilies", "ipv6")])),
        ],
        true,
    );
    scene.add_with_uid("holder");
    for (container, code, trouble, words) in [
        (
            "bad",
            Code::ADDRESS_REFUSED,
            Trouble::Annotation,
            "the pod's annotation manx.dev/ipAddrs has \"10.244.0.300\"",
        ),
        ("late", Code::ADDRESS_REFUSED, Trouble::Refused, "10.244.0.77 is in use by pod default/holder"),
        ("nowhere", Code::ADDRESS_REFUSED, Trouble::Refused, "192.0.2.1 is in no pool"),
        (
            "family",
            Code::NO_ADDRESS,
            Trouble::NoAddress,
            "IPv6 is asked for, but no enabled automatic IPv6 pool",
        ),
    ] {
        scene.seen.clear();
        let request = scene.add_with_uid(container);
        let (found, text) = scene.refusal(request);
        assert!(found == code.0 && text.starts_with(words), "{container}: {found} {text}");
        assert_eq!(scene.events(), [(trouble, text)], "{container}");
    }
}

#[test]
fn a_full_pool_is_told_to_the_pod_that_found_it_full() {
    let mut scene = Scene::watching();
    scene.configure_with(&[("tiny", "10.9.0.0/26")], NamespaceNotes::default());
    let mut request = RequestId(0);
    for number in 0..65 {
        let container = format!("p{number}");
        scene.show(&[(&container, pod(&[]))], true);
        request = scene.add_with_uid(&container);
    }
    scene.now += Duration::from_secs(10);
    scene.feed(Input::Timeout);
    assert_eq!(scene.refusal(request).0, Code::NO_ADDRESS.0);
    let events = scene.events();
    let [(Trouble::NoAddress, note)] = events.as_slice() else { panic!("{events:?}") };
    assert!(note.contains("every block of tiny has an owner"), "{note}");
}

#[test]
fn a_pod_whose_uid_the_runtime_does_not_say_has_that_of_the_pod_that_is_shown() {
    let mut scene = Scene::watching();
    scene.show(&[("a", fixed("192.0.2.1"))], true);
    scene.call(Request::Add(add("a")));
    let told = scene.seen.iter().find_map(|output| match output {
        Output::PodEvent { pod, .. } => pod.uid.clone(),
        _ => None,
    });
    assert_eq!(told.as_deref(), Some(UID));
}

/// Something that happens to a node with a few pods.
#[derive(Debug, Clone)]
enum Happening {
    Add(u8),
    Del(u8),
    Shown(u8, bool),
    Broken,
    Answer(u8, bool),
    Passes(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..4u8).prop_map(Happening::Add),
        1 => (0..4u8).prop_map(Happening::Del),
        2 => (0..4u8, any::<bool>()).prop_map(|(pod, asks)| Happening::Shown(pod, asks)),
        1 => Just(Happening::Broken),
        2 => (0..4u8, any::<bool>()).prop_map(|(pod, found)| Happening::Answer(pod, found)),
        2 => (0..700u64).prop_map(Happening::Passes),
    ]
}

proptest! {
    /// Whatever the API server says or does not say, every ADD is answered once, within a second.
    #[test]
    fn no_add_is_lost_answered_twice_or_kept_waiting(happenings in proptest::collection::vec(happening(), 1..60)) {
        let mut scene = Scene::watching();
        let mut asked: Vec<(RequestId, Instant)> = Vec::new();
        let mut shown: BTreeMap<String, PodNotes> = BTreeMap::new();
        let mut containers = 0;
        for happening in happenings {
            match happening {
                Happening::Add(pod) => {
                    containers += 1;
                    let mut request = add(&format!("p{pod}"));
                    request.container = format!("c{containers}");
                    asked.push((scene.call(Request::Add(request)), scene.now));
                }
                Happening::Del(number) => {
                    let last: u32 = containers;
                    scene.call(Request::Del(del(&format!("c{}", last.saturating_sub(number.into())))));
                }
                Happening::Shown(pod, asks) => {
                    let notes = if asks { self::pod(&[("ipFamilies", "ipv4")]) } else { self::pod(&[]) };
                    shown.insert(format!("p{pod}"), notes);
                    let all: Vec<_> = shown.iter().map(|(name, notes)| (name.as_str(), notes.clone())).collect();
                    scene.show(&all, true);
                }
                Happening::Broken => {
                    let all: Vec<_> = shown.iter().map(|(name, notes)| (name.as_str(), notes.clone())).collect();
                    scene.show(&all, false);
                }
                Happening::Answer(pod, found) => {
                    scene.looked_up(&format!("p{pod}"), found.then(|| self::pod(&[])));
                }
                Happening::Passes(millis) => {
                    let until = scene.now + Duration::from_millis(millis);
                    while let Some(deadline) = scene.node.deadline().filter(|deadline| *deadline <= until) {
                        prop_assert!(deadline > scene.now, "a deadline that does not move");
                        scene.now = deadline;
                        scene.feed(Input::Timeout);
                    }
                    scene.now = until;
                }
            }
            for (request, since) in &asked {
                let answers = scene.seen.iter().filter(|output| matches!(output, Output::Reply { request: of, .. } if of == request));
                let answers = answers.count();
                prop_assert!(answers <= 1, "answered {answers} times");
                prop_assert!(answers == 1 || scene.now < *since + PATIENCE, "not answered within a second");
            }
        }
    }
}
