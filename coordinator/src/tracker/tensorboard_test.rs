use super::super::subject::tests::subject;
use super::*;

fn board(folder: &Path) -> TensorBoard {
    TensorBoard { subject: Arc::new(subject(folder.to_owned())), file: None }
}

fn point(step: u64) -> Point {
    Point { step, time: 0.0, values: vec![("train/loss".to_owned(), 0.5), ("train/epoch".to_owned(), 0.1)] }
}

fn begin(board: &mut TensorBoard, kept: Option<u64>) -> Shown {
    board.begin(&Start { kept, history: Vec::new() }).unwrap().shown
}

/// What a reader is shown of a folder.
fn shown(folder: &Path) -> Shown {
    let mut shown = Shown::default();
    event_files(&folder.join("abababab")).unwrap().iter().for_each(|file| take_in(file, &mut shown).unwrap());
    shown
}

/// `Event(wall_time=1, step=3, summary=Summary(value=[Value(tag="train/loss", simple_value=0.5)]))` and
/// `Event(step=7, session_log=SessionLog(status=START))`, as the protobuf of TensorBoard 2.21 serialises them.
#[test]
fn events_have_the_bytes_of_tensorboards_own() {
    let hex = |event: &Event| event.encoded().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    // Of these it is the time at which they are made.
    let timeless = |bytes: String| bytes.strip_prefix("09").unwrap()[16..].to_owned();
    let point = Point { step: 3, time: 1.0, values: vec![("train/loss".to_owned(), 0.5)] };
    assert_eq!(hex(&Event::scalars(&point)), "09000000000000f03f10032a130a110a0a747261696e2f6c6f7373150000003f");
    assert_eq!(timeless(hex(&Event::restart(7))), "10073a020801");
    assert_eq!(timeless(hex(&Event::version())), "1a0d627261696e2e4576656e743a32");
}

#[test]
fn a_process_that_goes_on_begins_a_file_that_voids_what_came_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = board(folder.path());
    assert_eq!(begin(&mut first, None), Shown::default());
    first.show(&[point(1), point(2), point(5)]).unwrap();
    first.rewind(2, &mut Shown::default()).unwrap();
    first.show(&[point(3)]).unwrap();
    first.end(Ending::Stopped).unwrap();
    assert_eq!((shown(folder.path()).news(point(3)), shown(folder.path()).news(point(4))), (None, Some(point(4))));
    // A crash has cut the last event.
    let path = first.file.unwrap().path;
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 1]).unwrap();
    let mut second = board(folder.path());
    let mut found = begin(&mut second, Some(3));
    assert!(found.has(SESSION_INFO) && found.news(point(3)).is_some());
    second.show(&[point(3), point(4)]).unwrap();
    second.end(Ending::Completed).unwrap();
    assert!(second.file.as_ref().unwrap().path > path, "readers go by the name");
    assert!(shown(folder.path()).news(point(4)).is_none());
    // Begun anew, nothing of it stands.
    assert_eq!(begin(&mut board(folder.path()), None), Shown::default());
    assert!(shown(folder.path()).has(SESSION_INFO) && !shown(folder.path()).has("train/loss"));
}

#[test]
fn what_is_no_event_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("abababab");
    std::fs::create_dir_all(run.join("events.out.tfevents.0000000001.a-folder")).unwrap();
    std::fs::write(run.join("events.out.tfevents.0000000002.host.1.0"), b"not an event").unwrap();
    std::fs::write(run.join("notes.txt"), "mine").unwrap();
    let mut board = board(folder.path());
    assert_eq!(begin(&mut board, Some(0)), Shown::default());
    board.show(&[point(1)]).unwrap();
    assert_eq!(shown(folder.path()).news(point(1)), None);
    assert_eq!(std::fs::read_to_string(run.join("notes.txt")).unwrap(), "mine");
}
