//! Decides who is heard: a state machine without socket, clock or randomness.
//!
//! Time is what the shell says it is, as the span since its start; it may stand still and jump ahead, but not go back.
//!
//! **Replays.** A beat counts only if it cannot be an old one: within an incarnation the sequence must grow, and an incarnation is
//! believed once a beat of it has echoed one of *our* recent beats. A stranger with a recording of the network keeps nobody alive.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use conclave_catalog::NodeId;
use serde::Serialize;

/// Our last beats to a peer whose echo proves that it is up to date.
const ECHOES_KEPT: usize = 32;

/// The spans that decide.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between two beats.
    pub beat: Duration,
    /// Silence after which a peer is no longer heard. Several beats, so that one lost datagram means nothing.
    pub patience: Duration,
    /// Between two questions over TCP to a peer that is not heard.
    pub probe: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            beat: Duration::from_millis(250),
            patience: Duration::from_millis(1000),
            probe: Duration::from_millis(1000),
        }
    }
}

/// What a node tells of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Load average of the last minute, in hundredths.
    pub load: u64,
    /// How many of its parts are not healthy.
    pub faults: u64,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Who sends it.
    pub from: NodeId,
    /// Whom it is for.
    pub to: NodeId,
    /// Random, new with every start of the sender.
    pub incarnation: u64,
    /// Grows with every beat of an incarnation.
    pub sequence: u64,
    /// The last beat that the sender has of the receiver.
    pub echo: Option<Echo>,
    /// Whom the sender hears.
    pub hears: BTreeSet<NodeId>,
    /// The sender's facts.
    pub facts: Facts,
}

/// Which beat was received last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// The incarnation of whoever sent it.
    pub incarnation: u64,
    /// Its number.
    pub sequence: u64,
    /// From its arrival until the echo left.
    pub held_for: Duration,
}

/// What is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Not heard yet; the patience has not passed.
    Unknown,
    /// Its beats arrive.
    Alive,
    /// Its beats do not arrive, but it answers over TCP: datagrams are lost on the way.
    Lossy,
    /// Neither its beats nor answers arrive: it is frozen, its machine is down, or the network is cut.
    Suspected,
    /// Its machine says that nobody listens: the process is gone.
    Gone,
}

/// How a question over TCP ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It answered with a beat.
    Beat(Beat),
    /// The connection was refused.
    Refused,
    /// Nothing came in time.
    Nothing,
}

/// What happens to the detector.
#[derive(Debug, Clone)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// These are the other nodes now.
    Peers(BTreeSet<NodeId>),
    /// This node's own facts.
    Facts(Facts),
    /// A datagram came.
    Heard(Beat),
    /// A question over TCP has ended.
    Answered {
        /// Who was asked.
        peer: NodeId,
        /// What it said.
        answer: Answer,
    },
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this as a datagram.
    Send(Beat),
    /// Ask `to` over TCP by this beat; the answer comes as [`Input::Answered`].
    Ask(Beat),
}

/// What one node knows of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerView {
    /// What is known of it.
    pub verdict: Verdict,
    /// How long the verdict has stood, in whole milliseconds.
    #[serde(rename = "for_ms", serialize_with = "whole_millis")]
    pub stood_for: Duration,
    /// Whether it says that it hears this node; absent when it is not heard itself.
    pub hears_us: Option<bool>,
    /// Whom it hears.
    pub hears: BTreeSet<NodeId>,
    /// The last time from a beat to its echo, in microseconds.
    #[serde(rename = "round_trip_us", serialize_with = "whole_micros")]
    pub round_trip: Option<Duration>,
    /// What it told of itself last.
    pub facts: Facts,
}

fn whole_millis<S: serde::Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

fn whole_micros<S: serde::Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let micros = span.map(|span| u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    micros.serialize(serializer)
}

#[derive(Debug)]
struct Peer {
    /// Since when this node knows of it.
    known_since: Duration,
    verdict: Verdict,
    verdict_since: Duration,
    /// The incarnation that is believed, with its last sequence.
    believed: Option<(u64, u64)>,
    /// The last beat that came, believed or not: what is echoed.
    last: Option<(u64, u64, Duration)>,
    heard_at: Option<Duration>,
    asked_at: Option<Duration>,
    is_being_asked: bool,
    /// Our last beats to it, and when they left.
    sent: VecDeque<(u64, Duration)>,
    hears: BTreeSet<NodeId>,
    round_trip: Option<Duration>,
    facts: Facts,
}

impl Peer {
    fn new(now: Duration) -> Self {
        Self {
            known_since: now,
            verdict: Verdict::Unknown,
            verdict_since: now,
            believed: None,
            last: None,
            heard_at: None,
            asked_at: None,
            is_being_asked: false,
            sent: VecDeque::new(),
            hears: BTreeSet::new(),
            round_trip: None,
            facts: Facts::default(),
        }
    }

    fn judge(&mut self, verdict: Verdict, now: Duration) {
        if self.verdict != verdict {
            self.verdict = verdict;
            self.verdict_since = now;
        }
    }
}

/// One node's detector.
#[derive(Debug)]
pub struct Detector {
    me: NodeId,
    incarnation: u64,
    timing: Timing,
    sequence: u64,
    last_beat: Option<Duration>,
    facts: Facts,
    peers: BTreeMap<NodeId, Peer>,
}

impl Detector {
    /// A detector that knows nobody yet. `incarnation` must be random: see the module's text.
    pub fn new(me: NodeId, incarnation: u64, timing: Timing) -> Self {
        Self {
            me,
            incarnation,
            timing,
            sequence: 0,
            last_beat: None,
            facts: Facts::default(),
            peers: BTreeMap::new(),
        }
    }

    /// Takes what happened, and says what is to be done.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Output> {
        match input {
            Input::Tick => self.tick(now),
            Input::Peers(peers) => {
                self.peers.retain(|id, _| peers.contains(id));
                for id in peers.into_iter().filter(|id| *id != self.me) {
                    self.peers.entry(id).or_insert_with(|| Peer::new(now));
                }
                Vec::new()
            }
            Input::Facts(facts) => {
                self.facts = facts;
                Vec::new()
            }
            Input::Heard(beat) => {
                if self.take(now, &beat)
                    && let Some(peer) = self.peers.get_mut(&beat.from)
                {
                    peer.heard_at = Some(now);
                    peer.judge(Verdict::Alive, now);
                }
                Vec::new()
            }
            Input::Answered { peer, answer } => {
                self.answered(now, peer, &answer);
                Vec::new()
            }
        }
    }

    /// The answer to a question that a peer asks over TCP by its beat; none when it is no peer, or not for this node.
    pub fn answer(&mut self, now: Duration, question: &Beat) -> Option<Beat> {
        self.take(now, question);
        self.peers
            .contains_key(&question.from)
            .then(|| self.beat(now, question.from))
    }

    /// What is known of every peer.
    pub fn view(&self, now: Duration) -> BTreeMap<NodeId, PeerView> {
        let view = |peer: &Peer| {
            let is_heard = matches!(peer.verdict, Verdict::Alive | Verdict::Lossy);
            PeerView {
                verdict: peer.verdict,
                stood_for: now.saturating_sub(peer.verdict_since),
                hears_us: is_heard.then(|| peer.hears.contains(&self.me)),
                hears: peer.hears.clone(),
                round_trip: peer.round_trip,
                facts: peer.facts,
            }
        };
        self.peers.iter().map(|(id, peer)| (*id, view(peer))).collect()
    }

    fn tick(&mut self, now: Duration) -> Vec<Output> {
        let mut outputs = Vec::new();
        let ids: Vec<NodeId> = self.peers.keys().copied().collect();
        if self
            .last_beat
            .is_none_or(|last| now.saturating_sub(last) >= self.timing.beat)
        {
            self.last_beat = Some(now);
            outputs.extend(ids.iter().map(|id| Output::Send(self.beat(now, *id))));
        }
        let due: Vec<NodeId> = ids
            .into_iter()
            .filter(|id| {
                self.peers
                    .get_mut(id)
                    .is_some_and(|peer| is_to_be_asked(peer, now, self.timing))
            })
            .collect();
        outputs.extend(due.into_iter().map(|id| Output::Ask(self.beat(now, id))));
        outputs
    }

    fn beat(&mut self, now: Duration, to: NodeId) -> Beat {
        self.sequence += 1;
        let sequence = self.sequence;
        let hears = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.verdict == Verdict::Alive)
            .map(|(id, _)| *id)
            .collect();
        let mut echo = None;
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.sent.push_back((sequence, now));
            if peer.sent.len() > ECHOES_KEPT {
                peer.sent.pop_front();
            }
            echo = peer.last.map(|(incarnation, sequence, at)| Echo {
                incarnation,
                sequence,
                held_for: now.saturating_sub(at),
            });
        }
        Beat {
            from: self.me,
            to,
            incarnation: self.incarnation,
            sequence,
            echo,
            hears,
            facts: self.facts,
        }
    }

    /// Takes a beat's content, if it is one of now; true if so.
    fn take(&mut self, now: Duration, beat: &Beat) -> bool {
        if beat.to != self.me {
            return false;
        }
        let Some(peer) = self.peers.get_mut(&beat.from) else {
            return false;
        };
        let echoed = beat
            .echo
            .filter(|echo| echo.incarnation == self.incarnation)
            .and_then(|echo| {
                let sent = peer.sent.iter().find(|(sequence, _)| *sequence == echo.sequence)?;
                Some((sent.1, echo.held_for))
            });
        let is_new = peer
            .last
            .is_none_or(|(incarnation, sequence, _)| incarnation != beat.incarnation || sequence < beat.sequence);
        if is_new {
            // Echoed even when it is not believed: the echo is how the other side comes to believe us.
            peer.last = Some((beat.incarnation, beat.sequence, now));
        }
        let is_believed = match peer.believed {
            Some((incarnation, sequence)) if incarnation == beat.incarnation => sequence < beat.sequence,
            _ => echoed.is_some(),
        };
        if !is_believed {
            return false;
        }
        peer.believed = Some((beat.incarnation, beat.sequence));
        peer.hears.clone_from(&beat.hears);
        peer.facts = beat.facts;
        if let Some((sent_at, held_for)) = echoed {
            peer.round_trip = Some(now.saturating_sub(sent_at).saturating_sub(held_for));
        }
        true
    }

    fn answered(&mut self, now: Duration, id: NodeId, answer: &Answer) {
        let is_taken = match answer {
            Answer::Beat(beat) => beat.from == id && self.take(now, beat),
            _ => false,
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.is_being_asked = false;
        if peer.verdict == Verdict::Alive {
            // Its beats came back while it was asked.
            return;
        }
        let verdict = match answer {
            Answer::Beat(_) if is_taken => Verdict::Lossy,
            Answer::Refused => Verdict::Gone,
            Answer::Beat(_) | Answer::Nothing => Verdict::Suspected,
        };
        peer.judge(verdict, now);
    }
}

/// Marks a peer whose beats stay out, and says whether it is time to ask it.
fn is_to_be_asked(peer: &mut Peer, now: Duration, timing: Timing) -> bool {
    let silent_since = peer.heard_at.unwrap_or(peer.known_since);
    if now.saturating_sub(silent_since) < timing.patience {
        return false;
    }
    if matches!(peer.verdict, Verdict::Alive | Verdict::Unknown) {
        peer.judge(Verdict::Suspected, now);
    }
    let is_due = peer
        .asked_at
        .is_none_or(|asked| now.saturating_sub(asked) >= timing.probe);
    if peer.is_being_asked || !is_due {
        return false;
    }
    peer.asked_at = Some(now);
    peer.is_being_asked = true;
    true
}
