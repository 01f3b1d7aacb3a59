//! Detectors on a simulated network: every link in each direction up or down, datagrams lost, delayed, repeated and replayed,
//! processes killed, frozen and started again.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_gossip::detector::{Answer, Beat, Detector, Input, Output, Timing, Verdict};
use proptest::prelude::*;

const TICK: Duration = Duration::from_millis(50);

/// A generator that is replayed by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Frozen,
    Dead,
}

struct World {
    random: Random,
    now: Duration,
    nodes: BTreeMap<NodeId, (Detector, State)>,
    /// Directions in which nothing gets through.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Directions in which datagrams get lost and connections do not.
    cut_datagrams: BTreeSet<(NodeId, NodeId)>,
    loss: u64,
    flying: Vec<(Duration, Beat)>,
    recorded: Vec<Beat>,
}

impl World {
    fn new(seed: u64, count: u64) -> Self {
        let mut world = Self {
            random: Random(seed | 1),
            now: Duration::ZERO,
            nodes: BTreeMap::new(),
            cut: BTreeSet::new(),
            cut_datagrams: BTreeSet::new(),
            loss: 0,
            flying: Vec::new(),
            recorded: Vec::new(),
        };
        (1..=count).for_each(|id| world.start(NodeId(id), count));
        world
    }

    fn start(&mut self, id: NodeId, count: u64) {
        let mut detector = Detector::new(id, self.random.next(), Timing::default());
        detector.step(self.now, Input::Peers((1..=count).map(NodeId).collect()));
        self.nodes.insert(id, (detector, State::Running));
    }

    fn set(&mut self, id: NodeId, state: State) {
        self.nodes.get_mut(&id).unwrap().1 = state;
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now += TICK;
            self.deliver();
            let running: Vec<NodeId> = self
                .nodes
                .iter()
                .filter(|(_, node)| node.1 == State::Running)
                .map(|(id, _)| *id)
                .collect();
            for id in running {
                let outputs = self.nodes.get_mut(&id).unwrap().0.step(self.now, Input::Tick);
                outputs.into_iter().for_each(|output| self.carry(output));
            }
        }
    }

    fn carry(&mut self, output: Output) {
        match output {
            Output::Send(beat) => {
                self.recorded.push(beat.clone());
                let way = (beat.from, beat.to);
                if self.cut.contains(&way) || self.cut_datagrams.contains(&way) || self.random.percent(self.loss) {
                    return;
                }
                let delay = Duration::from_millis(self.random.next() % 80);
                if self.random.percent(self.loss / 2) {
                    self.flying.push((self.now + delay * 2, beat.clone()));
                }
                self.flying.push((self.now + delay, beat));
            }
            Output::Ask(beat) => {
                let peer = beat.to;
                let is_cut = self.cut.contains(&(beat.from, peer)) || self.cut.contains(&(peer, beat.from));
                let node = self.nodes.get_mut(&peer).unwrap();
                let answer = match node.1 {
                    _ if is_cut => Answer::Nothing,
                    State::Running => node.0.answer(self.now, &beat).map_or(Answer::Nothing, Answer::Beat),
                    State::Frozen => Answer::Nothing,
                    State::Dead => Answer::Refused,
                };
                let asker = self.nodes.get_mut(&beat.from).unwrap();
                asker.0.step(self.now, Input::Answered { peer, answer });
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.flying)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.flying = later;
        for (_, beat) in due {
            let node = self.nodes.get_mut(&beat.to).unwrap();
            match node.1 {
                State::Running => {
                    node.0.step(now, Input::Heard(beat));
                }
                // Its socket keeps them.
                State::Frozen => self.flying.push((now + TICK, beat)),
                State::Dead => {}
            }
        }
    }

    fn verdict(&self, of: u64, about: u64) -> Verdict {
        self.view(of, about).verdict
    }

    fn view(&self, of: u64, about: u64) -> conclave_gossip::detector::PeerView {
        self.nodes[&NodeId(of)].0.view(self.now)[&NodeId(about)].clone()
    }

    fn all_alive(&self) -> bool {
        self.nodes.values().all(|(detector, _)| {
            let view = detector.view(self.now);
            view.values()
                .all(|peer| peer.verdict == Verdict::Alive && peer.hears_us == Some(true))
        })
    }
}

const SETTLED: Duration = Duration::from_secs(3);

proptest! {
    #[test]
    fn whole_networks_suspect_nobody(seed: u64, count in 2..6_u64, loss in 0..11_u64) {
        let mut world = World::new(seed, count);
        world.loss = loss;
        world.run(SETTLED);
        for _ in 0..100 {
            world.run(TICK * 4);
            prop_assert!(loss > 0 || world.all_alive());
            // Four beats in a row are lost once in ten thousand times; the question over TCP then finds the peer.
            for (detector, _) in world.nodes.values() {
                let view = detector.view(world.now);
                prop_assert!(view.values().all(|peer| matches!(peer.verdict, Verdict::Alive | Verdict::Lossy)));
            }
        }
        prop_assert!(world.view(1, 2).round_trip.unwrap() < Duration::from_millis(300));
    }

    #[test]
    fn a_dead_process_is_gone_and_a_frozen_one_suspected_until_they_are_back(seed: u64, loss in 0..11_u64, is_dead: bool) {
        let mut world = World::new(seed, 3);
        world.loss = loss;
        world.run(SETTLED);
        world.set(NodeId(3), if is_dead { State::Dead } else { State::Frozen });
        world.run(Duration::from_millis(1_600));
        let expected = if is_dead { Verdict::Gone } else { Verdict::Suspected };
        for of in [1, 2] {
            prop_assert_eq!(world.verdict(of, 3), expected);
            prop_assert_eq!(world.view(of, 3).hears_us, None);
            prop_assert!(matches!(world.verdict(of, 3 - of), Verdict::Alive | Verdict::Lossy));
        }
        if is_dead {
            world.start(NodeId(3), 3);
        } else {
            world.set(NodeId(3), State::Running);
        }
        world.loss = 0;
        world.run(SETTLED);
        prop_assert!(world.all_alive());
    }

    #[test]
    fn a_link_that_works_one_way_is_noticed_at_both_ends(seed: u64, only_datagrams: bool) {
        let mut world = World::new(seed, 3);
        world.run(SETTLED);
        let way = (NodeId(1), NodeId(2));
        if only_datagrams { world.cut_datagrams.insert(way) } else { world.cut.insert(way) };
        world.run(SETTLED);
        let expected = if only_datagrams { Verdict::Lossy } else { Verdict::Suspected };
        prop_assert_eq!(world.verdict(2, 1), expected);
        prop_assert_eq!(world.verdict(1, 2), Verdict::Alive);
        prop_assert_eq!(world.view(1, 2).hears_us, Some(false));
        // The third one hears both, and hears from both whom they hear.
        prop_assert_eq!(world.verdict(3, 1), Verdict::Alive);
        prop_assert!(!world.view(3, 2).hears.contains(&NodeId(1)));
        prop_assert!(world.view(3, 1).hears.contains(&NodeId(2)));
        world.cut.clear();
        world.cut_datagrams.clear();
        world.run(SETTLED);
        prop_assert!(world.all_alive());
    }

    #[test]
    fn recordings_keep_nobody_alive(seed: u64) {
        let mut world = World::new(seed, 3);
        world.run(SETTLED);
        world.set(NodeId(3), State::Dead);
        let recorded: Vec<Beat> = world.recorded.iter().filter(|beat| beat.from == NodeId(3)).cloned().collect();
        for _ in 0..40 {
            world.run(TICK);
            let at = usize::try_from(world.random.next()).unwrap() % recorded.len();
            world.flying.push((world.now, recorded[at].clone()));
            world.flying.push((world.now, recorded[recorded.len() - 1].clone()));
        }
        prop_assert_eq!(world.verdict(1, 3), Verdict::Gone);
        // Nor do they disturb it once it is back.
        world.start(NodeId(3), 3);
        for _ in 0..60 {
            world.run(TICK);
            let at = usize::try_from(world.random.next()).unwrap() % recorded.len();
            world.flying.push((world.now, recorded[at].clone()));
        }
        prop_assert!(world.all_alive());
    }

    #[test]
    fn anything_that_happens_is_forgotten_once_it_is_over(seed: u64, events in prop::collection::vec((0..6_u8, 1..4_u64, 1..4_u64), 0..30)) {
        let mut world = World::new(seed, 3);
        for (event, a, b) in events {
            let way = (NodeId(a), NodeId(b));
            match event {
                0 => { world.cut.insert(way); }
                1 => { world.cut.remove(&way); }
                2 => world.set(NodeId(a), State::Frozen),
                3 => world.set(NodeId(a), State::Dead),
                4 => world.start(NodeId(a), 3),
                _ => world.loss = b * 20,
            }
            world.run(TICK * 7);
        }
        world.cut.clear();
        world.loss = 0;
        for id in 1..4 {
            if world.nodes[&NodeId(id)].1 == State::Dead { world.start(NodeId(id), 3) } else { world.set(NodeId(id), State::Running) }
        }
        world.run(SETTLED);
        prop_assert!(world.all_alive());
    }
}
