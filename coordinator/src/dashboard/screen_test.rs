use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::dashboard::view::News;

fn worker(rank: u32, phases: [f64; 3], slow: Option<v1::Slowness>) -> v1::WorkerStatus {
    let [data, compute, wait] = phases;
    v1::WorkerStatus {
        worker: u64::from(rank) + 1,
        rank: Some(rank),
        host: "node7\u{1b}[2J".to_owned(),
        device: "cpu".to_owned(),
        state: "training".to_owned(),
        phases: Some(v1::PhaseSeconds { data, compute, wait, report: 0.0 }),
        slowness: slow.map(Into::into),
        ..Default::default()
    }
}

fn status() -> v1::Status {
    let moment = |update, words: &str, mood: &str| v1::Moment {
        update,
        at_seconds: None,
        words: words.to_owned(),
        mood: mood.to_owned(),
    };
    let mut status = v1::Status {
        run: "0123456789abcdef".repeat(4),
        update: 60,
        total_updates: 120,
        epoch: 1.5,
        loss: Some(0.5),
        learning_rate: Some(2e-5),
        rows_per_second: Some(51.6),
        eta_seconds: Some(190.0),
        elapsed_seconds: 65.0,
        workers_expected: 2,
        precision: "float32".to_owned(),
        checkpoint_update: Some(50),
        evaluations: vec![v1::EvaluationStatus {
            split: "validation".to_owned(),
            update: 40,
            accuracy: Some(0.75),
            loss: Some(0.6),
        }],
        workers: vec![worker(1, [0.0, 0.9, 0.1], Some(v1::Slowness::Compute)), worker(0, [0.1, 0.3, 0.6], None)],
        moments: vec![moment(0, "2 workers connected", "joined"), moment(42, "1 worker lost: 1 train on", "lost")],
        ..Default::default()
    };
    status.set_phase(v1::Phase::Training);
    status
}

fn view(start: Instant) -> View {
    let mut view = View::new("127.0.0.1:29400".to_owned());
    let point = |update| v1::CurvePoint { update, loss: Some(1.0 / update as f64), learning_rate: Some(update as f64) };
    let report = v1::Report { curve: (1..60).map(point).collect(), ..Default::default() };
    view.take(News::Report(Box::new(report)), start);
    view.take(News::Status(Box::new(status())), start);
    view
}

fn shown(view: &View, (width, height): (u16, u16), now: Instant) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| render(frame, view, Palette::PLAIN, now)).unwrap();
    let cells = terminal.backend().buffer().content();
    let rows = cells.chunks(usize::from(width.max(1)));
    let text = |row: &[ratatui::buffer::Cell]| row.iter().map(|cell| cell.symbol()).collect::<String>();
    rows.map(|row| text(row).trim_end().to_owned() + "\n").collect()
}

#[test]
fn a_run_is_seen_at_a_glance() {
    let start = Instant::now();
    let text = shown(&view(start), (80, 24), start + Duration::from_secs(2));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "medley  training  2 of 2 workers, float32  run 01234567", "{text}");
    assert_eq!(lines[1], "update 60 of 120  epoch 1.50  52 rows/s  3 min 10 s left  elapsed 1 min 07 s", "{text}");
    let (done, rest) = (lines[2].matches('█').count(), lines[2].matches('░').count());
    assert!(done.abs_diff(rest) <= 1 && lines[2].ends_with("  50 %"), "{text}");
    let lane =
        |name: &str| *lines.iter().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    let count = |line: &str, sign: char| line.matches(sign).count();
    // The slow one waits for nobody; the other one waits half of its time, and 0.1 s is the sum itself.
    let (slow, fast) = (lane("rank 1 "), lane("rank 0 "));
    assert!(slow.ends_with("SLOW compute") && count(slow, '░') == 0, "{text}");
    let columns = [count(fast, '▓'), count(fast, '█'), count(fast, '▒'), count(fast, '░')];
    assert!(columns[3] > 3 * columns[2] && columns[1] > 2 * columns[0], "{text}");
    assert!(columns[2].abs_diff(count(slow, '▒')) <= 1 && columns.iter().sum::<usize>() > 25, "{text}");
    let at = lines.iter().position(|line| line.starts_with("loss 0.5000  ")).unwrap_or_else(|| panic!("{text}"));
    assert!(lines[at].contains("learning rate 2.00e-5  "), "{text}");
    // The loss falls, and the learning rate rises; the last update is another.
    let foot: Vec<char> = lines[at + 5].chars().collect();
    assert!(foot[0] == '█' && foot[30] == '▁' && foot[41] != '█' && foot[77] == '█', "{text}");
    assert!(
        text.contains("validation  accuracy 0.7500, loss 0.6000, after update 40\nsaved       update 50\n"),
        "{text}"
    );
    assert!(text.contains("update 42   1 worker lost: 1 train on\nupdate 0    2 workers connected\n"), "{text}");
    assert!(lines[23].starts_with("q: leave") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn whatever_the_size_is_the_run_comes_first() {
    let start = Instant::now();
    let mut view = view(start);
    for width in [0, 1, 2, 7, 20, 39, 61, 200] {
        for height in [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 14, 18, 30, 90] {
            shown(&view, (width, height), start);
        }
    }
    let tiny = shown(&view, (20, 5), start);
    assert!(tiny.starts_with("medley  training  2\nupdate 60 of 120  ep\n"), "{tiny}");
    assert!(tiny.ends_with("q: leave; the run go\n"), "{tiny}");
    // Of many workers, the slow one is among those that are seen.
    let many = (0..200).map(|rank| worker(rank, [0.0, 0.5, 0.1], (rank == 150).then_some(v1::Slowness::Data)));
    view.take(News::Status(Box::new(v1::Status { workers: many.collect(), ..status() })), start);
    let text = shown(&view, (80, 24), start);
    assert!(text.contains("SLOW data") && text.contains("more\n") && text.contains("loss 0.5000"), "{text}");
}

#[test]
fn what_is_wrong_is_said() {
    let start = Instant::now();
    let mut view = view(start);
    let paused = Some("write checkpoint-60: No space left on device".to_owned());
    view.take(News::Status(Box::new(v1::Status { paused, stopping: true, ..status() })), start);
    view.take(News::Lost("connection refused".to_owned()), start);
    view.take(News::Lost("later".to_owned()), start + Duration::from_secs(4));
    let text = shown(&view, (100, 24), start + Duration::from_secs(7));
    assert!(text.contains("waiting for the coordinator at 127.0.0.1:29400 (7 s): connection refused\n"), "{text}");
    assert!(text.contains("paused: write checkpoint-60: No space left") && text.contains("stopping: "), "{text}");
    // It is back, and over.
    let outcome = "completed".to_owned();
    view.take(News::Status(Box::new(v1::Status { outcome, update: 120, ..status() })), start);
    let text = shown(&view, (100, 24), start + Duration::from_secs(99));
    assert!(text.starts_with("medley  completed  ") && !text.contains("waiting for the coordinator"), "{text}");
    assert!(text.contains("100 %") && text.contains("elapsed 1 min 05 s") && !text.contains("left"), "{text}");
    // Nothing is known yet.
    assert!(shown(&View::new(String::new()), (80, 24), start).starts_with("medley  unknown"));
}

#[test]
fn colours_are_left_out_where_they_are_not_wanted() {
    let start = Instant::now();
    let coloured = |palette| {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| render(frame, &view(start), palette, start)).unwrap();
        let cells = terminal.backend().buffer().content();
        cells.iter().filter(|cell| cell.fg != Color::Reset).count()
    };
    assert!(coloured(Palette::COLOURED) > 100);
    assert_eq!(coloured(Palette::PLAIN), 0);
}
