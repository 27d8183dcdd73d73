use std::sync::{Arc, Mutex};

use super::*;

/// What was done, in words.
type Seen = Arc<Mutex<Vec<String>>>;

/// A tracker that writes down what it is told, and fails as often as is planned for it.
#[derive(Debug)]
struct Diary {
    seen: Seen,
    troubles: Vec<Trouble>,
    shown: Shown,
}

impl Diary {
    fn note(&mut self, line: String) -> Result<(), Trouble> {
        if let Some(trouble) = self.troubles.pop() {
            return Err(trouble);
        }
        self.seen.lock().unwrap().push(line);
        Ok(())
    }
}

impl Tracker for Diary {
    fn key(&self, name: &str) -> String {
        format!("my {name}")
    }

    fn begin(&mut self, start: &Start) -> Result<Begun, Trouble> {
        self.note(format!("begin {:?}", start.kept))?;
        Ok(Begun { place: "here".to_owned(), shown: self.shown.clone() })
    }

    fn show(&mut self, points: &[Point]) -> Result<(), Trouble> {
        let names = |point: &Point| point.values.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().join(",");
        let points: Vec<String> = points.iter().map(|point| format!("{}: {}", point.step, names(point))).collect();
        self.note(points.join("; "))
    }

    fn rewind(&mut self, kept: u64, shown: &mut Shown) -> Result<(), Trouble> {
        shown.cut(Some(kept));
        self.note(format!("rewind {kept}"))
    }

    fn end(&mut self, ending: Ending) -> Result<(), Trouble> {
        self.note(format!("{ending:?}"))
    }
}

fn point(step: u64) -> Point {
    Point { step, time: 0.0, values: vec![("loss".to_owned(), 0.5)] }
}

/// What a tracker with these troubles (the last comes first) has seen, what a person was told, and what was left.
fn told(troubles: Vec<Trouble>, reports: Vec<Report>) -> (String, Vec<String>, Option<String>) {
    let (seen, said) = (Seen::default(), Seen::default());
    let listener = Arc::clone(&said);
    let tell: Tell = Arc::new(move |line| listener.lock().unwrap().push(line));
    let mut shown = Shown::default();
    shown.note("my loss", 1);
    let diary = Box::new(Diary { seen: Arc::clone(&seen), troubles, shown });
    let start = Start { kept: Some(2), history: vec![point(1), point(2)] };
    let mut courier = Courier::start("diary", diary, start, tell);
    reports.into_iter().for_each(|report| courier.take(report));
    courier.conclude();
    let left = courier.left(Instant::now() + Duration::from_secs(60));
    let seen = seen.lock().unwrap().join("; ");
    let said = said.lock().unwrap().clone();
    (seen, said, left)
}

fn reports() -> Vec<Report> {
    let (three, four) = (Report::Point(point(3)), Report::Point(point(4)));
    vec![three.clone(), four.clone(), three.clone(), Report::Rewind(2), three, Report::End(Ending::Completed)]
}

const ALL: &str = "begin Some(2); 2: my loss; 3: my loss; 4: my loss; rewind 2; 3: my loss; Completed";

#[test]
fn what_is_not_shown_yet_is_brought_in_order_and_once() {
    let (seen, said, left) = told(Vec::new(), reports());
    assert_eq!((seen.as_str(), left), (ALL, None));
    assert_eq!(said, ["diary shows the run: here"]);
}

#[test]
fn trouble_that_passes_is_waited_for_and_said_once() {
    let (seen, said, left) = told(vec![Trouble::passing("the disk is full")], reports());
    assert_eq!((seen.as_str(), left), (ALL, None));
    let [warned, .., last] = &said[..] else { panic!("{said:?}") };
    assert_eq!(warned, "warning: diary: the disk is full; its reports wait, and the run goes on");
    assert_eq!((said.len(), last.as_str()), (3, "diary shows the run: here"));
}

#[test]
fn trouble_that_stays_ends_the_report_and_is_said_with_what_is_missing() {
    // The last is met first: the tracker begins well, and fails when it is to show something.
    let (seen, said, left) = told(vec![Trouble::lasting("403 forbidden")], Vec::new());
    assert_eq!(seen, "");
    assert_eq!(said, ["warning: diary: 403 forbidden; nothing more is reported to it"]);
    assert_eq!(left.unwrap(), "warning: diary does not have 2 reports or more: 403 forbidden");
    // One that is dead to the end is tried once more, and not for ever.
    let dead = vec![Trouble::passing("nobody answers"); 1000];
    let (seen, said, left) = told(dead, reports());
    assert_eq!((seen.as_str(), said.len()), ("", 1));
    assert!(left.unwrap().ends_with("reports or more: nobody answers"));
}

/// A tracker that hangs costs no more than the wait at the end; what finds no room in the queue is counted.
#[test]
fn a_tracker_that_hangs_holds_nobody_up() {
    #[derive(Debug)]
    struct Stuck(Mutex<Receiver<()>>);
    impl Tracker for Stuck {
        fn key(&self, name: &str) -> String {
            name.to_owned()
        }
        fn begin(&mut self, _: &Start) -> Result<Begun, Trouble> {
            self.0.lock().unwrap().recv().ok();
            Err(Trouble::lasting("let go"))
        }
        fn show(&mut self, _: &[Point]) -> Result<(), Trouble> {
            Ok(())
        }
        fn rewind(&mut self, _: u64, _: &mut Shown) -> Result<(), Trouble> {
            Ok(())
        }
        fn end(&mut self, _: Ending) -> Result<(), Trouble> {
            Ok(())
        }
    }
    let (release, held) = mpsc::channel();
    let start = Start { kept: None, history: Vec::new() };
    let mut courier = Courier::start("stuck", Box::new(Stuck(Mutex::new(held))), start, Arc::new(|_| {}));
    (0..QUEUED_REPORTS as u64 + 3).for_each(|step| courier.take(Report::Point(point(step))));
    assert_eq!(courier.missed, 3);
    courier.take(Report::Rewind(0));
    assert!(courier.queue.is_none(), "what it does not know to be void it must not show beside what comes");
    courier.conclude();
    let left = courier.left(Instant::now()).unwrap();
    assert_eq!(left, "warning: stuck does not have 3 reports or more: it takes too long");
    drop(release);
}
