//! Many workers, simulated: they speak the protocol to a real coordinator, each over a connection of its own, and compute
//! nothing; they send no heartbeats, so their updates must not be rarer. What they report of an update is what its plan says, so the coordinator checks and records it as ever.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use medley_common::example::Example;
use medley_common::identity::{Digest, Generation, ProcessMark, Update};
use medley_common::message::{Command, Event, Form, Hello, LaneReport, PROTOCOL, Timing, Token, UpdateReport, Welcome};
use medley_common::plan::{Plan, UpdatePlan};
use medley_common::spec::TrainSpec;
use medley_proto::v1;
use medley_proto::v1::worker_service_client::WorkerServiceClient;
use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::load::Waits;

/// Events of a worker that may wait for the network.
const QUEUED_EVENTS: usize = 64;

/// How a coordinator kept up with a crowd.
#[derive(Debug)]
pub struct Pace {
    /// Updates a second that were made.
    pub rate: f64,
    /// From when the last member had reported an update until each was told what that permits.
    pub orders: Waits,
}

/// What all workers of a crowd know.
struct Crowd {
    address: String,
    workers: u32,
    updates: u64,
    every: Duration,
    state: Mutex<State>,
    /// Nobody leaves before all have made the last update: the others would form a new group.
    end: Barrier,
}

#[derive(Default)]
struct State {
    plan: Option<Plan>,
    plans: BTreeMap<Update, Arc<UpdatePlan>>,
    /// When the first update was permitted.
    started: Option<Instant>,
    /// How many have reported each update, and when the last one did.
    reported: BTreeMap<Update, (u32, Instant)>,
}

/// Has `workers` workers make `updates` updates, `rate` a second in all if they may, and returns how that went.
pub async fn train(address: &str, workers: u32, updates: u64, rate: f64) -> Pace {
    let end = Barrier::new(workers as usize);
    let (address, every) = (format!("http://{address}"), Duration::from_secs_f64(1.0 / rate));
    let crowd = Arc::new(Crowd { address, workers, updates, every, state: Mutex::default(), end });
    let mut members = JoinSet::new();
    for pid in 1..=workers {
        members.spawn(Member::live(Arc::clone(&crowd), pid));
    }
    let mut waits = Vec::new();
    let (mut first, mut last) = (None::<Instant>, None::<Instant>);
    for (start, end, mut orders) in members.join_all().await {
        first = first.into_iter().chain([start]).min();
        last = last.into_iter().chain([end]).max();
        waits.append(&mut orders);
    }
    let seconds = (last.expect("a member") - first.expect("a member")).as_secs_f64();
    Pace { rate: updates as f64 / seconds, orders: Waits::new(waits) }
}

impl Crowd {
    /// The rows of an update.
    fn plan(&self, update: Update) -> Arc<UpdatePlan> {
        let mut state = self.state.lock().expect("nobody panicked");
        let State { plan, plans, .. } = &mut *state;
        let plan = plan.as_mut().expect("rows before updates");
        Arc::clone(plans.entry(update).or_insert_with(|| Arc::new(plan.update(update))))
    }

    /// When an update is due: all members make it at the same time, as a group does.
    fn due(&self, update: Update) -> Instant {
        let mut state = self.state.lock().expect("nobody panicked");
        *state.started.get_or_insert_with(Instant::now) + self.every * u32::try_from(update.0).expect("few updates")
    }

    fn reported(&self, update: Update) {
        let mut state = self.state.lock().expect("nobody panicked");
        let (count, last) = state.reported.entry(update).or_insert((0, Instant::now()));
        (*count, *last) = (*count + 1, Instant::now());
    }

    /// When the last member had reported an update.
    fn complete(&self, update: Update) -> Option<Instant> {
        let state = self.state.lock().expect("nobody panicked");
        state.reported.get(&update).filter(|(count, _)| *count == self.workers).map(|(_, last)| *last)
    }
}

/// One worker.
struct Member {
    crowd: Arc<Crowd>,
    client: WorkerServiceClient<Channel>,
    events: mpsc::Sender<v1::SessionRequest>,
    commands: Streaming<v1::SessionResponse>,
    spec: Option<TrainSpec>,
    window: u64,
    form: Option<Form>,
    update: Update,
    through: Update,
    waits: Vec<Duration>,
}

impl Member {
    /// Lives to the end of the last update; returns when the first and the last one were made, and how long orders took.
    async fn live(crowd: Arc<Crowd>, pid: u32) -> (Instant, Instant, Vec<Duration>) {
        let endpoint = tonic::transport::Endpoint::from_shared(crowd.address.clone()).expect("an address");
        let channel = endpoint.tcp_nodelay(true).connect().await.expect("connect to the coordinator");
        let mut client = WorkerServiceClient::new(channel);
        let (events, stream) = mpsc::channel(QUEUED_EVENTS);
        events.send(Event::from(hello(pid)).into()).await.expect("an open session");
        let commands = client.session(ReceiverStream::new(stream)).await.expect("a session").into_inner();
        let (spec, form, waits) = (None, None, Vec::new());
        let (update, through) = (Update(0), Update(0));
        let mut member = Self { crowd, client, events, commands, spec, window: 0, form, update, through, waits };
        let mut start = None;
        while member.update.0 < member.crowd.updates {
            // With leave to go on, what is due next comes first, unless an order does.
            let next = member.update.next();
            let may = member.through >= next;
            let due = if may { member.crowd.due(next) } else { Instant::now() + Duration::from_secs(3600) };
            tokio::select! {
                biased;
                command = member.commands.message() => member.obey(command.expect("a session")).await,
                () = tokio::time::sleep_until(due.into()), if may => {
                    start.get_or_insert_with(Instant::now);
                    member.report(next).await;
                }
            }
        }
        let end = Instant::now();
        member.crowd.end.wait().await;
        (start.expect("an update"), end, member.waits)
    }

    async fn say(&self, event: Event) {
        self.events.send(event.into()).await.expect("an open session");
    }

    async fn obey(&mut self, command: Option<v1::SessionResponse>) {
        let command = command.expect("a session that goes on");
        match Command::try_from(command).expect("a command") {
            Command::Welcome(welcome) => {
                self.prepare(&welcome).await;
                (self.spec, self.window) = (Some(welcome.spec), welcome.window);
                let (layout, endpoint) = (Digest([1; 32]), "127.0.0.1:1".to_owned());
                self.say(Event::Prepared { layout, endpoint, notes: Vec::new() }).await;
            }
            Command::Form(form) => {
                let generation = form.generation;
                if form.rank.0 == 0 {
                    let token = Token::new(vec![1; 16]).expect("a short token");
                    self.say(Event::Token { generation, token }).await;
                }
                self.form = Some(form);
                self.say(Event::Formed { generation }).await;
            }
            Command::Train { through, .. } => {
                // What an update permits is the one that is a window later.
                for permitted in (self.through.0 + 1).max(self.window + 1)..=through.0 {
                    let complete = self.crowd.complete(Update(permitted - self.window));
                    self.waits.extend(complete.map(|complete| complete.elapsed()));
                }
                self.through = through;
            }
            Command::Token { .. } => {}
            other => panic!("told to {other:?}"),
        }
    }

    /// The first of all fetches the rows: their lengths make the plan.
    async fn prepare(&mut self, welcome: &Welcome) {
        if welcome.worker.0 != 1 {
            return;
        }
        let request = v1::FetchExamplesRequest { worker: 1, split: v1::Split::Train.into() };
        let mut stream = self.client.fetch_examples(request).await.expect("rows").into_inner();
        let mut lengths = Vec::new();
        while let Some(message) = stream.message().await.expect("rows") {
            let examples = message.examples.into_iter().map(|example| Example::try_from(example).expect("a row"));
            lengths.extend(examples.map(|example| example.len() as u32));
        }
        let plan = Plan::new(&welcome.spec, lengths);
        self.crowd.state.lock().expect("nobody panicked").plan = Some(plan);
    }

    async fn report(&mut self, update: Update) {
        let plan = self.crowd.plan(update);
        let (form, spec) = (self.form.as_ref().expect("a group"), self.spec.as_ref().expect("a recipe"));
        let share = form.lanes[form.rank.0 as usize].iter().cloned().flatten();
        let report = UpdateReport {
            update,
            learning_rate: spec.schedule.at(update, spec.schedule.peak),
            grad_norm: 1.0,
            skipped: false,
            lanes: share.map(|lane| LaneReport { lane, rows: plan.lanes[lane as usize].clone() }).collect(),
            losses: vec![1.0; plan.lanes.len()],
            tokens: 32,
            parameters: None,
            timing: Timing::default(),
        };
        let generation: Generation = form.generation;
        self.crowd.reported(update);
        self.say(Event::Updated { generation, report }).await;
        self.update = update;
    }
}

/// What a worker of this version says first.
#[must_use]
pub fn hello(pid: u32) -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: format!("node{}", pid / 8),
        pid,
        process: ProcessMark(u64::from(pid)),
        session: 1,
        device: "cpu".to_owned(),
        threads: 1,
        program: Digest([6; 32]),
        known: None,
        held: None,
        gpu: None,
        processor: String::new(),
    }
}
