use super::*;

#[test]
fn planned_faults_come_once_at_their_update() {
    let mut chaos = Chaos::parse("kill:worker=1@update=20; stop:worker=0@update=31;term:worker=2@update=20;").unwrap();
    let fault = |blow, place| Fault { blow, victim: Victim::Worker(place) };
    assert_eq!(chaos.due(Occasion::Update, Update(19), Victim::is_worker), []);
    assert_eq!(
        chaos.due(Occasion::Update, Update(22), Victim::is_worker),
        [fault(Blow::Kill, 1), fault(Blow::Terminate, 2)]
    );
    assert_eq!(chaos.due(Occasion::Update, Update(31), Victim::is_worker), [fault(Blow::Stop, 0)]);
    assert!(chaos.is_empty());
    let mut chaos = Chaos::parse("slow:worker=1@update=10,factor=4,until=50").unwrap();
    assert_eq!(chaos.due(Occasion::Update, Update(10), Victim::is_worker), [fault(Blow::Slow(4.0), 1)]);
    assert_eq!(chaos.due(Occasion::Update, Update(49), Victim::is_worker), []);
    assert_eq!(chaos.due(Occasion::Update, Update(50), Victim::is_worker), [fault(Blow::Recover, 1)]);
    let mut chaos = Chaos::parse("kill:coordinator@update=4").unwrap();
    assert_eq!(chaos.due(Occasion::Update, Update(4), Victim::is_worker), []);
    assert!(chaos.clone().after(Update(4)).due(Occasion::Update, Update(5), Victim::is_coordinator).is_empty());
    let killed = chaos.after(Update(0)).due(Occasion::Update, Update(4), Victim::is_coordinator);
    assert_eq!(killed, [Fault { blow: Blow::Kill, victim: Victim::Coordinator }]);
}

#[test]
fn a_fault_that_can_never_come_is_named() {
    let never = |plan: &str, workers| Chaos::parse(plan).unwrap().never(workers, Update(30));
    for (plan, workers) in [("kill:worker=1@update=30;random:mean=1s", 2), ("kill:coordinator@save=30", 0)] {
        assert_eq!(never(plan, workers), None);
    }
    let late = never("kill:worker=0@save=2;stop:coordinator@evaluation=31", 2).unwrap();
    assert_eq!(late, "--chaos: SIGSTOP to the coordinator at evaluation 31 can never come: the run has 30 updates");
    let absent = never("slow:worker=2@update=3,factor=4", 2).unwrap();
    assert!(absent.ends_with("worker in place 2 at update 3 can never come: the workers have the places 0 to 1"));
    assert!(never("kill:worker=0@update=3", 0).unwrap().ends_with("medley serve starts no workers"));
}

#[test]
fn faults_strike_in_the_midst_of_other_work() {
    let plan = "kill:coordinator@save=2; term:worker=1@evaluation=3; stop:coordinator@update=9; kill:worker=0@save=4";
    let mut chaos = Chaos::parse(plan).unwrap();
    let all = |_| true;
    assert_eq!(chaos.due(Occasion::Save, Update(1), all), []);
    assert_eq!(chaos.due(Occasion::Update, Update(3), all), []);
    let killed = Fault { blow: Blow::Kill, victim: Victim::Coordinator };
    assert_eq!(chaos.clone().due(Occasion::Save, Update(3), all), [killed]);
    // A coordinator that comes back makes that save again, and is not struck again.
    chaos = chaos.after(Update(3));
    assert_eq!(chaos.due(Occasion::Save, Update(3), all), []);
    let terminated = Fault { blow: Blow::Terminate, victim: Victim::Worker(1) };
    assert_eq!(chaos.due(Occasion::Evaluation, Update(6), all), [terminated]);
    assert_eq!(chaos.due(Occasion::Save, Update(4), Victim::is_coordinator), []);
    assert_eq!(chaos.due(Occasion::Save, Update(4), all).len(), 1);
    let stopped = Fault { blow: Blow::Stop, victim: Victim::Coordinator };
    assert_eq!(chaos.due(Occasion::Update, Update(9), all), [stopped]);
    assert!(chaos.is_empty());
}

#[test]
fn random_faults_repeat_with_the_seed_and_have_the_mean() {
    let chaos = Chaos::parse("random:mean=2s,seed=7").unwrap();
    let pauses = |mut chaos: Chaos| (0..2000).map(|_| chaos.pause().unwrap().as_secs_f64()).collect::<Vec<_>>();
    let first = pauses(chaos.clone());
    assert_eq!(first, pauses(chaos.clone()));
    let mean = first.iter().sum::<f64>() / 2000.0;
    assert!((1.8..2.2).contains(&mean), "{mean}");
    let hits: Vec<_> = (0..60).filter_map(|_| chaos.clone().strike(&[0, 3])).collect();
    assert!(hits.iter().all(|fault| matches!(fault.victim, Victim::Worker(0 | 3))));
    let mut chaos = chaos;
    assert_eq!(chaos.strike(&[]), None);
    assert_eq!(chaos.left(), ["a random fault, one in 2 s on average,"], "nobody was there to be struck");
    assert!(chaos.strike(&[1]).is_some() && chaos.left().is_empty());
}

#[test]
fn what_is_no_fault_is_named() {
    for plan in [
        "kill",
        "kill:worker=1",
        "hit:worker=1@update=2",
        "kill:worker=x@update=2",
        "kill:node=1@update=2",
        "kill:worker=1@step=2",
        "kill:worker=1@save",
        "kill:worker=1@save=x",
        "kill:coordinator@evaluation=-1",
        "term:coordinator",
        "slow:worker=1@factor=4",
        "slow:worker=1@update=2",
        "slow:worker=1@update=2,factor=1",
        "slow:coordinator@update=2,factor=4",
        "random:seed=1",
        "random:mean=0s",
        "random:mean=1s,seed=x",
        "random:often",
    ] {
        let error = Chaos::parse(plan).unwrap_err().to_string();
        assert!(error.starts_with(&format!("--chaos: {plan:?}: ")), "{error}");
    }
    assert!(Chaos::parse(" ; ").unwrap().is_empty());
}
