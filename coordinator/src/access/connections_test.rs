use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);

/// Connects, and returns both ends.
async fn pair(incoming: &mut Incoming) -> (TcpStream, Connection) {
    let address = incoming.listener.local_addr().unwrap();
    let (client, served) = tokio::join!(TcpStream::connect(address), incoming.next());
    (client.unwrap(), served.unwrap().unwrap())
}

async fn port(limit: usize, idle: Idle) -> Incoming {
    Connections::new(limit, idle, super::super::limits::CALLS).incoming(TcpListener::bind("127.0.0.1:0").await.unwrap())
}

async fn reads(connection: &mut Connection) -> io::Result<usize> {
    connection.read(&mut [0; 8]).await
}

#[tokio::test]
async fn a_stranger_is_sent_away_and_a_guest_stays() {
    let mut incoming = port(8, Idle::UntilProven(SHORT)).await;
    let (_silent, mut stranger) = pair(&mut incoming).await;
    assert_eq!(reads(&mut stranger).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    let (mut client, mut guest) = pair(&mut incoming).await;
    guest.connect_info().raise(Trust::Guest);
    assert!(tokio::time::timeout(3 * SHORT, reads(&mut guest)).await.is_err(), "it may be silent");
    client.write_all(b"hello").await.unwrap();
    assert_eq!(reads(&mut guest).await.unwrap(), 5);
}

#[tokio::test]
async fn who_has_shown_the_least_makes_room_and_a_member_never_does() {
    let mut incoming = port(2, Idle::UntilProven(LONG)).await;
    let (_a, mut member) = pair(&mut incoming).await;
    member.connect_info().raise(Trust::Member);
    let (_b, mut guest) = pair(&mut incoming).await;
    guest.connect_info().raise(Trust::Guest);
    let (mut c, mut newcomer) = pair(&mut incoming).await;
    assert_eq!(reads(&mut guest).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    newcomer.connect_info().raise(Trust::Member);
    // Nobody can make room any more: the next one is closed, and the others notice nothing.
    let address = incoming.listener.local_addr().unwrap();
    let mut turned_away = TcpStream::connect(address).await.unwrap();
    let mut nothing = [0; 8];
    tokio::select! {
        _ = incoming.next() => panic!("let in"),
        end = turned_away.read(&mut nothing) => assert!(matches!(end, Ok(0) | Err(_))),
    }
    c.write_all(b"still here").await.unwrap();
    assert_eq!(reads(&mut newcomer).await.unwrap(), 8);
    drop(newcomer);
    let (mut d, mut next) = pair(&mut incoming).await;
    d.write_all(b"room").await.unwrap();
    assert_eq!(reads(&mut next).await.unwrap(), 4);
    member.write_all(b"member").await.unwrap();
}

/// Who may only look cannot fill the port, so that no worker comes back to its run.
#[tokio::test]
async fn viewers_make_room_for_a_newcomer_and_strangers_before_them() {
    let mut incoming = port(3, Idle::UntilProven(LONG)).await;
    let (_a, mut first) = pair(&mut incoming).await;
    let (b, second) = pair(&mut incoming).await;
    [&first, &second].into_iter().for_each(|viewer| viewer.connect_info().raise(Trust::Known));
    let (_c, mut stranger) = pair(&mut incoming).await;
    let (_d, worker) = pair(&mut incoming).await;
    assert_eq!(reads(&mut stranger).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    worker.connect_info().raise(Trust::Member);
    let (_e, another) = pair(&mut incoming).await;
    assert_eq!(reads(&mut first).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    drop((b, second, worker, another));
}

#[tokio::test]
async fn who_neither_reads_nor_writes_is_idle() {
    let mut incoming = port(8, Idle::AtMost(SHORT)).await;
    let (mut client, mut served) = pair(&mut incoming).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(reads(&mut served).await.unwrap(), 1);
    assert_eq!(reads(&mut served).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn who_guesses_is_closed() {
    let mut incoming = port(8, Idle::UntilProven(LONG)).await;
    let (_client, mut served) = pair(&mut incoming).await;
    (0..super::super::limits::DENIALS).for_each(|_| served.connect_info().deny());
    assert_eq!(reads(&mut served).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
}
