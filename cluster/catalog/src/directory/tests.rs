//! What must hold whatever is proposed, and the cases of spec/consul-api.md one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NODE: &str = "node1";

fn session(number: u8) -> SessionId {
    SessionId(uuid::Uuid::from_u128(u128::from(number)))
}

fn write(key: &str, value: &str) -> KvWrite {
    KvWrite {
        key: key.into(),
        value: value.as_bytes().into(),
        flags: 0,
    }
}

fn new_session(number: u8, behavior: Behavior, lock_delay_ns: u64, checks: &[&str]) -> DirectoryCommand {
    DirectoryCommand::CreateSession(NewSession {
        id: session(number),
        name: String::new(),
        node: NODE.into(),
        lock_delay_ns,
        behavior,
        ttl: None,
        node_checks: checks.iter().map(|check| (*check).to_owned()).collect(),
        service_checks: Vec::new(),
    })
}

fn member(name: &str) -> NodeRecord {
    NodeRecord {
        id: NodeId(1),
        name: name.into(),
        address: "127.0.0.11".into(),
        ports: crate::NodePorts::default(),
        joined_at: jiff::Timestamp::UNIX_EPOCH,
        alive: true,
        down_since: None,
    }
}

/// A directory that numbers its commands itself.
struct Log {
    state: Directory,
    index: u64,
}

impl Log {
    fn new() -> Self {
        let mut state = Directory::default();
        state.member_joined(1, &member(NODE));
        Self { state, index: 1 }
    }

    fn apply(&mut self, command: DirectoryCommand) -> Result<DirectoryAnswer, DirectoryRefusal> {
        self.index += 1;
        self.state.apply(self.index, command)
    }

    fn kv(&mut self, operation: KvOp) -> bool {
        self.apply(DirectoryCommand::Kv(operation)).unwrap() == DirectoryAnswer::Written(true)
    }

    fn set(&mut self, key: &str, value: &str) {
        assert!(self.kv(KvOp::Set(write(key, value))));
    }

    fn acquire(&mut self, key: &str, by: u8) -> bool {
        let write = write(key, "held");
        self.kv(KvOp::Lock {
            write,
            session: session(by),
        })
    }

    fn entry(&self, key: &str) -> KvEntry {
        (**self.state.kv().get(key).expect("the key is there")).clone()
    }
}

#[test]
fn compare_and_set_compares_with_the_last_change() {
    let mut log = Log::new();
    let cas = |index: u64| KvOp::Cas {
        write: write("a", &index.to_string()),
        index,
    };
    assert!(!log.kv(cas(7)), "an absent key was never changed");
    assert!(log.kv(cas(0)));
    assert!(!log.kv(cas(0)), "0 only creates");
    let index = log.entry("a").modify_index;
    assert!(log.kv(cas(index)));
    assert!(!log.kv(cas(index)));
    let delete = |index| KvOp::DeleteCas { key: "a".into(), index };
    assert!(!log.kv(delete(0)));
    assert!(!log.kv(delete(index)));
    assert!(log.kv(delete(log.entry("a").modify_index)));
    assert!(log.kv(delete(1)), "what is absent is as it should be");
}

#[test]
fn a_write_that_changes_nothing_wakes_nobody() {
    let mut log = Log::new();
    log.set("a", "1");
    let before = log.state.clone();
    log.set("a", "1");
    assert_eq!(before, log.state);
    log.kv(KvOp::Set(KvWrite {
        flags: u64::MAX,
        ..write("a", "1")
    }));
    assert_eq!(log.entry("a").flags, u64::MAX);
    assert_eq!(log.entry("a").modify_index, log.index);
}

#[test]
fn locks_go_from_holder_to_holder() {
    let mut log = Log::new();
    for number in [1, 2] {
        log.apply(new_session(number, Behavior::Release, 0, &[])).unwrap();
    }
    assert!(log.acquire("a", 1));
    assert!(log.acquire("a", 1), "again by the holder");
    assert_eq!(
        (log.entry("a").lock_index, log.entry("a").session),
        (1, Some(session(1)))
    );
    assert!(!log.acquire("a", 2));
    log.set("a", "written by somebody else");
    assert_eq!(
        (log.entry("a").lock_index, log.entry("a").session),
        (1, Some(session(1)))
    );
    let release = |by| KvOp::Unlock {
        write: write("a", "free"),
        session: session(by),
    };
    assert!(!log.kv(release(2)));
    assert!(!log.kv(release(9)), "an unknown session holds nothing");
    assert!(log.kv(release(1)));
    assert_eq!((log.entry("a").lock_index, log.entry("a").session), (1, None));
    assert!(log.acquire("a", 2));
    assert_eq!(log.entry("a").lock_index, 2);
    let unknown = log.apply(DirectoryCommand::Kv(KvOp::Lock {
        write: write("a", ""),
        session: session(9),
    }));
    assert!(unknown.unwrap_err().to_string().starts_with("invalid session"));
    assert!(log.kv(KvOp::Delete { key: "a".into() }), "locks are advisory");
    assert_eq!(log.state.kv().held_by(&session(2)).count(), 0);
}

#[test]
fn the_end_of_a_session_frees_or_deletes_all_its_keys_at_once() {
    let mut log = Log::new();
    log.apply(new_session(1, Behavior::Release, 0, &[])).unwrap();
    log.apply(new_session(2, Behavior::Delete, 0, &[])).unwrap();
    for (key, by) in [("a", 1), ("b", 1), ("c", 2)] {
        assert!(log.acquire(key, by));
    }
    log.apply(DirectoryCommand::EndSessions(vec![session(1), session(2), session(3)]))
        .unwrap();
    for key in ["a", "b"] {
        assert_eq!((log.entry(key).session, log.entry(key).modify_index), (None, log.index));
    }
    assert!(log.state.kv().get("c").is_none());
    assert_eq!(log.state.kv().index_of_key("c"), log.index);
    assert!(log.state.delays().entries().is_empty(), "no delay was asked for");
}

#[test]
fn a_lock_delay_holds_until_it_is_ended_and_not_after_a_release() {
    let mut log = Log::new();
    let second = 1_000_000_000;
    for number in [1, 2] {
        log.apply(new_session(number, Behavior::Delete, second, &[])).unwrap();
    }
    assert!(log.acquire("a", 1));
    assert!(log.kv(KvOp::Unlock {
        write: write("a", ""),
        session: session(1)
    }));
    assert!(log.acquire("a", 2), "a holder that lets go leaves no delay");
    log.apply(DirectoryCommand::EndSessions(vec![session(2)])).unwrap();
    assert!(!log.acquire("a", 1));
    log.set("a", "writes need no lock");
    assert!(!log.acquire("a", 1));
    let numbers: Vec<u64> = log.state.delays().entries().keys().copied().collect();
    log.apply(DirectoryCommand::EndLockDelays(numbers)).unwrap();
    assert!(log.acquire("a", 1));
}

#[test]
fn transactions_are_whole_or_not_at_all() {
    let mut log = Log::new();
    log.set("a", "1");
    let before = log.state.clone();
    let set = |key: &str| KvOp::Set(write(key, "new"));
    let failing = vec![
        set("b"),
        KvOp::CheckNotExists { key: "a".into() },
        KvOp::Get { key: "none".into() },
    ];
    let Ok(DirectoryAnswer::Txn(Err(errors))) = log.apply(DirectoryCommand::Txn(failing)) else {
        panic!("it must fail");
    };
    assert_eq!(errors.iter().map(|error| error.operation).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(before, log.state);
    let good = vec![
        set("b"),
        set("c"),
        KvOp::GetTree { prefix: "".into() },
        KvOp::Delete { key: "a".into() },
    ];
    let Ok(DirectoryAnswer::Txn(Ok(rows))) = log.apply(DirectoryCommand::Txn(good)) else {
        panic!("it must succeed");
    };
    let rows: Vec<_> = rows.iter().map(|row| (&*row.entry.key, row.with_value)).collect();
    assert_eq!(
        rows,
        [("b", false), ("c", false), ("a", true), ("b", true), ("c", true)]
    );
    assert!(["b", "c"].iter().all(|key| log.entry(key).modify_index == log.index));
}

#[test]
fn a_critical_check_ends_the_sessions_that_depend_on_it() {
    let mut log = Log::new();
    let check = |id: &str, status| CheckSpec {
        id: id.into(),
        name: id.into(),
        notes: String::new(),
        status: Some(status),
        output: String::new(),
        service_id: None,
        definition: CheckDefinition::default(),
    };
    let registration = |checks| {
        DirectoryCommand::Register(Box::new(Registration {
            node: NODE.into(),
            facts: None,
            service: None,
            checks,
            replace_checks: false,
        }))
    };
    log.apply(registration(vec![
        check("disk", CheckStatus::Passing),
        check("fan", CheckStatus::Critical),
    ]))
    .unwrap();
    let refused = |log: &mut Log, id| log.apply(new_session(9, Behavior::Release, 0, &[id])).unwrap_err();
    assert_eq!(refused(&mut log, "none"), DirectoryRefusal::UnknownCheck("none".into()));
    assert_eq!(refused(&mut log, "fan"), DirectoryRefusal::CriticalCheck("fan".into()));
    log.apply(new_session(1, Behavior::Delete, 0, &["disk", SERF_HEALTH]))
        .unwrap();
    log.apply(new_session(2, Behavior::Delete, 0, &[SERF_HEALTH])).unwrap();
    log.apply(new_session(3, Behavior::Delete, 0, &[])).unwrap();
    assert!(log.acquire("a", 1));
    let update = |status| DirectoryCommand::UpdateCheck {
        node: NODE.into(),
        check: "disk".into(),
        status,
        output: "full".into(),
    };
    log.apply(update(CheckStatus::Warning)).unwrap();
    assert_eq!(log.state.sessions().entries().len(), 3);
    log.apply(update(CheckStatus::Critical)).unwrap();
    assert!(log.state.sessions().get(&session(1)).is_none());
    assert!(log.state.kv().get("a").is_none());
    log.index += 1;
    let index = log.index;
    log.state.member_declared(index, NODE, false);
    assert_eq!(
        log.state.sessions().entries().len(),
        2,
        "a restart of a manager ends no session"
    );
    let dead = DirectoryCommand::EndSessionsOfDead { node: NODE.into() };
    log.state.member_declared(index, NODE, true);
    log.apply(dead.clone()).unwrap();
    assert_eq!(log.state.sessions().entries().len(), 2, "it came back in time");
    log.state.member_declared(index, NODE, false);
    log.apply(dead).unwrap();
    assert_eq!(
        log.state.sessions().entries().keys().copied().collect::<Vec<_>>(),
        [session(3)]
    );
    log.state.member_left(index + 5, NODE);
    assert!(log.state.sessions().entries().is_empty());
    assert!(log.state.services().by_name().is_empty());
}

#[test]
fn a_service_goes_for_a_check_that_has_been_critical_since_it_was_seen_so() {
    let mut log = Log::new();
    let service = ServiceSpec {
        id: "web".into(),
        name: "web".into(),
        ..ServiceSpec::default()
    };
    let check = CheckSpec {
        id: "up".into(),
        name: "up".into(),
        notes: String::new(),
        status: Some(CheckStatus::Critical),
        output: String::new(),
        service_id: Some("web".into()),
        definition: CheckDefinition {
            kind: CheckKind::Ttl { millis: 1000 },
            deregister_after_ms: Some(60_000),
            ..CheckDefinition::default()
        },
    };
    log.apply(DirectoryCommand::Register(Box::new(Registration {
        node: NODE.into(),
        facts: None,
        service: Some(service),
        checks: vec![check],
        replace_checks: false,
    })))
    .unwrap();
    let update = |status, output: &str| DirectoryCommand::UpdateCheck {
        node: NODE.into(),
        check: "up".into(),
        status,
        output: output.into(),
    };
    let verdict = |since| DirectoryCommand::DeregisterCritical {
        node: NODE.into(),
        check: "up".into(),
        since,
    };
    let since = |log: &Log| {
        let node = log.state.services().node(NODE).cloned();
        node.and_then(|node| node.checks.get("up").map(|check| check.status_index))
    };
    let first = since(&log).unwrap();
    log.apply(update(CheckStatus::Critical, "still")).unwrap();
    assert_eq!(since(&log), Some(first), "the output is another, the status is not");
    // A verdict on its way while the check passes, and one that comes when it is critical again.
    log.apply(update(CheckStatus::Passing, "")).unwrap();
    log.apply(verdict(first)).unwrap();
    assert!(since(&log).is_some(), "it passes");
    log.apply(update(CheckStatus::Critical, "")).unwrap();
    log.apply(verdict(first)).unwrap();
    let second = since(&log).unwrap();
    assert!(second > first, "it has not been critical all the time");
    log.apply(verdict(second)).unwrap();
    assert_eq!(since(&log), None);
    assert!(!log.state.services().by_name().contains_key("web"));
    log.apply(verdict(second)).unwrap();
}

#[test]
fn registering_twice_changes_nothing_and_keeps_what_checks_found() {
    let mut log = Log::new();
    let registration = |port, ids: &[&str], replace_checks| {
        let check = |id: &&str| CheckSpec {
            id: (*id).into(),
            name: "web".into(),
            notes: String::new(),
            status: None,
            output: String::new(),
            service_id: Some("web1".into()),
            definition: CheckDefinition::default(),
        };
        DirectoryCommand::Register(Box::new(Registration {
            node: NODE.into(),
            facts: None,
            service: Some(ServiceSpec {
                id: "web1".into(),
                name: "web".into(),
                port,
                ..ServiceSpec::default()
            }),
            checks: ids.iter().map(check).collect(),
            replace_checks,
        }))
    };
    log.apply(registration(80, &["one", "two"], false)).unwrap();
    log.apply(DirectoryCommand::UpdateCheck {
        node: NODE.into(),
        check: "one".into(),
        status: CheckStatus::Passing,
        output: "fine".into(),
    })
    .unwrap();
    let before = log.state.clone();
    log.apply(registration(80, &["one", "two"], false)).unwrap();
    assert_eq!(before, log.state);
    log.apply(registration(81, &["one"], true)).unwrap();
    let node = log.state.services().node(NODE).unwrap();
    let checks: Vec<_> = node.checks_of("web1").map(|check| (&*check.id, check.status)).collect();
    assert_eq!(
        checks,
        [("one", CheckStatus::Passing), (SERF_HEALTH, CheckStatus::Passing)]
    );
    let refused = log.apply(DirectoryCommand::Deregister {
        node: NODE.into(),
        service: Some(CONSUL_SERVICE.into()),
        check: None,
    });
    assert_eq!(refused, Err(DirectoryRefusal::OfMember(CONSUL_SERVICE.into())));
    log.apply(DirectoryCommand::Deregister {
        node: NODE.into(),
        service: Some("web1".into()),
        check: None,
    })
    .unwrap();
    assert_eq!(log.state.services().instances("web").count(), 0);
    assert_eq!(log.state.services().index_of_service("web"), log.index);
}

#[test]
fn very_many_deletions_are_remembered_in_bounds() {
    let mut log = Log::new();
    log.set("p/stays", "");
    let mut last = log.state.kv().index_of_prefix("p/");
    for number in 0..45_000 {
        log.set("p/x", "");
        log.set(&format!("p/{number}"), "");
        log.kv(KvOp::Delete {
            key: format!("p/{number}").into(),
        });
        let index = log.state.kv().index_of_prefix("p/s");
        assert!(index >= last);
        last = index;
    }
    let text = serde_json::to_string(&log.state).unwrap();
    assert!(text.len() < 4 << 20, "{} bytes", text.len());
}

const KEYS: [&str; 8] = ["a", "a/b", "a/b/c", "a/c", "ab", "b", "b/ü/1", "b/ü/2"];
const PREFIXES: [&str; 7] = ["", "a", "a/", "a/b", "b/", "b/ü", "zz"];

fn key() -> impl Strategy<Value = Arc<str>> {
    (0..KEYS.len()).prop_map(|place| Arc::from(KEYS[place]))
}

fn any_write() -> impl Strategy<Value = KvWrite> {
    (key(), 0_u8..3, 0_u64..2).prop_map(|(key, value, flags)| KvWrite {
        key,
        value: vec![value].into(),
        flags,
    })
}

fn any_session() -> impl Strategy<Value = SessionId> {
    (1_u8..5).prop_map(session)
}

fn any_op() -> impl Strategy<Value = KvOp> {
    prop_oneof![
        3 => any_write().prop_map(KvOp::Set),
        2 => (any_write(), 0_u64..60).prop_map(|(write, index)| KvOp::Cas { write, index }),
        6 => (any_write(), any_session()).prop_map(|(write, session)| KvOp::Lock { write, session }),
        2 => (any_write(), any_session()).prop_map(|(write, session)| KvOp::Unlock { write, session }),
        1 => key().prop_map(|key| KvOp::Delete { key }),
        1 => (key(), 0_u64..60).prop_map(|(key, index)| KvOp::DeleteCas { key, index }),
        1 => (0..PREFIXES.len()).prop_map(|place| KvOp::DeleteTree { prefix: PREFIXES[place].into() }),
        1 => key().prop_map(|key| KvOp::Get { key }),
        1 => (key(), any_session()).prop_map(|(key, session)| KvOp::CheckSession { key, session }),
    ]
}

fn any_command() -> impl Strategy<Value = DirectoryCommand> {
    let registration = (0_u8..3, 0_u16..2, any::<bool>(), 0_u8..3).prop_map(|(node, port, with_check, status)| {
        let service = ServiceSpec {
            id: "s".into(),
            name: format!("s{port}"),
            ..ServiceSpec::default()
        };
        let check = CheckSpec {
            id: "c".into(),
            name: String::new(),
            notes: String::new(),
            status: [None, Some(CheckStatus::Passing), Some(CheckStatus::Critical)][usize::from(status)],
            output: String::new(),
            service_id: Some("s".into()),
            definition: CheckDefinition::default(),
        };
        DirectoryCommand::Register(Box::new(Registration {
            node: format!("n{node}"),
            facts: Some(NodeSpec::default()),
            service: Some(service),
            checks: with_check.then_some(check).into_iter().collect(),
            replace_checks: false,
        }))
    });
    let create = (1_u8..5, any::<bool>(), 0_u64..2, any::<bool>()).prop_map(|(number, delete, delay, depends)| {
        let behavior = if delete { Behavior::Delete } else { Behavior::Release };
        new_session(
            number,
            behavior,
            delay * 1_000_000_000,
            if depends { &[SERF_HEALTH] } else { &[] },
        )
    });
    prop_oneof![
        10 => any_op().prop_map(DirectoryCommand::Kv),
        3 => prop::collection::vec(any_op(), 1..5).prop_map(DirectoryCommand::Txn),
        4 => create,
        2 => prop::collection::vec(any_session(), 1..3).prop_map(DirectoryCommand::EndSessions),
        1 => (0_u64..20).prop_map(|number| DirectoryCommand::EndLockDelays(vec![number])),
        2 => registration,
        1 => (0_u8..3, any::<bool>(), any::<bool>()).prop_map(|(node, service, check)| DirectoryCommand::Deregister {
            node: format!("n{node}"),
            service: service.then(|| "s".into()),
            check: check.then(|| "c".into()),
        }),
        2 => (0_u8..3, any::<bool>()).prop_map(|(node, passing)| DirectoryCommand::UpdateCheck {
            node: format!("n{node}"),
            check: "c".into(),
            status: if passing { CheckStatus::Passing } else { CheckStatus::Critical },
            output: String::new(),
        }),
        1 => prop::collection::vec(any_write(), 0..3).prop_map(DirectoryCommand::Restore),
    ]
}

/// Every query that a watcher may have, with what it shows and its index.
fn queries(state: &Directory) -> BTreeMap<String, (String, u64)> {
    let kv = state.kv();
    let mut all = BTreeMap::new();
    let mut add = |query: String, shown: String, index| all.insert(query, (shown, index));
    for key in KEYS {
        add(format!("key {key}"), format!("{:?}", kv.get(key)), kv.index_of_key(key));
    }
    for prefix in PREFIXES {
        let entries: Vec<_> = kv.list(prefix).collect();
        add(
            format!("prefix {prefix}"),
            format!("{entries:?}"),
            kv.index_of_prefix(prefix),
        );
    }
    let services = state.services();
    for name in ["s0", "s1", CONSUL_SERVICE] {
        let shown: Vec<_> = services
            .instances(name)
            .map(|(node, service)| {
                format!(
                    "{:?} {service:?} {:?}",
                    node.spec,
                    node.checks_of("s").collect::<Vec<_>>()
                )
            })
            .collect();
        add(
            format!("service {name}"),
            format!("{shown:?}"),
            services.index_of_service(name),
        );
    }
    for name in ["n0", "n1", "n2", NODE] {
        let shown = services
            .node(name)
            .map(|node| (&node.spec, &node.services, &node.checks));
        add(
            format!("node {name}"),
            format!("{shown:?}"),
            services.index_of_node(name),
        );
    }
    let nodes: Vec<_> = services.nodes().values().map(|node| (&node.name, &node.spec)).collect();
    add("nodes".into(), format!("{nodes:?}"), services.nodes_index());
    let names: Vec<_> = services.by_name().keys().collect();
    add("services".into(), format!("{names:?}"), services.services_index());
    let checks: Vec<_> = services.nodes().values().map(|node| &node.checks).collect();
    let checks: Vec<_> = checks.iter().flat_map(|checks| checks.values()).collect();
    add("checks".into(), format!("{checks:?}"), services.checks_index());
    let sessions = state.sessions();
    add("sessions".into(), format!("{:?}", sessions.entries()), sessions.index());
    all
}

fn check_locks(before: &Directory, after: &Directory) {
    for entry in after.kv().entries().values() {
        if let Some(holder) = entry.session {
            assert!(
                after.sessions().get(&holder).is_some(),
                "an ended session holds {}",
                entry.key
            );
            let held: Vec<_> = after.kv().held_by(&holder).collect();
            assert!(held.contains(&&entry.key));
        }
        let old = before
            .kv()
            .get(&entry.key)
            .filter(|old| old.create_index == entry.create_index);
        if let Some(old) = old {
            let passed_on = entry.session.is_some() && entry.session != old.session;
            assert_eq!(entry.lock_index, old.lock_index + u64::from(passed_on), "{}", entry.key);
            if let (Some(was), Some(is)) = (old.session, entry.session) {
                assert!(
                    was == is || after.sessions().get(&was).is_none(),
                    "taken from a live holder"
                );
            }
        }
    }
    for id in after.sessions().entries().keys() {
        for key in after.kv().held_by(id) {
            assert_eq!(after.kv().get(key).and_then(|entry| entry.session), Some(*id));
        }
    }
}

proptest! {
    #[test]
    fn locks_indexes_and_transactions_hold_under_any_commands(commands in prop::collection::vec(any_command(), 1..60)) {
        let mut log = Log::new();
        for command in commands {
            // A transaction may pass a lock on twice within one index.
            let is_txn = matches!(command, DirectoryCommand::Txn(_) | DirectoryCommand::Restore(_));
            let before = log.state.clone();
            let outcome = log.apply(command);
            let after = &log.state;
            if matches!(outcome, Err(_) | Ok(DirectoryAnswer::Written(false) | DirectoryAnswer::Txn(Err(_)))) {
                prop_assert_eq!(&before, after, "what failed changed something");
            }
            if !is_txn {
                check_locks(&before, after);
            }
            let old = queries(&before);
            for (query, (shown, index)) in queries(after) {
                let (was_shown, was_index) = &old[&query];
                prop_assert!(index >= *was_index, "{query}: {was_index} fell to {index}");
                prop_assert!(shown == *was_shown || index > *was_index, "{query} changed without its index");
            }
        }
        let text = serde_json::to_string(&log.state).unwrap();
        let read: Directory = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read, log.state);
    }

    #[test]
    fn names_are_cut_at_separators(
        keys in prop::collection::btree_set("[a-c/\u{10FFFF}]{0,6}", 0..20),
        prefix in "[a-c/]{0,2}",
        separator in prop_oneof![Just(None), Just(Some("/")), Just(Some("/b"))],
    ) {
        let mut log = Log::new();
        for key in &keys {
            log.set(key, "");
        }
        let mut expected: Vec<String> = Vec::new();
        for key in keys.iter().filter(|key| key.starts_with(&prefix)) {
            let rest = &key[prefix.len()..];
            let end = separator.and_then(|separator| Some(rest.find(separator)? + separator.len()));
            let name = end.map_or(key.as_str(), |end| &key[..prefix.len() + end]);
            if !expected.iter().any(|old| old == name) {
                expected.push(name.to_owned());
            }
        }
        prop_assert_eq!(log.state.kv().names(&prefix, separator), expected);
    }
}
