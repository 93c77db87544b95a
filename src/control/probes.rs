//! Health checks of load balancers that do not speak HTTP: a TCP port that accepts, and a UDP port that answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::time::sleep;

use super::look::Looker;

/// What a UDP probe is answered; never more than it sent.
const ANSWER: &[u8] = b"vxtap ready\n";
/// Between two answers, so that nobody can make us answer a flood.
const BETWEEN: Duration = Duration::from_millis(1);
/// How long nothing is taken after the system gave nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections and closes them: to be accepted is the answer.
pub async fn tcp(listener: TcpListener) {
    loop {
        if listener.accept().await.is_err() {
            sleep(PAUSE).await;
        }
        sleep(BETWEEN).await;
    }
}

/// Answers datagrams while the run takes packets and writes what comes of them.
pub async fn udp(socket: UdpSocket, looker: Arc<Looker>) {
    let mut probe = [0; ANSWER.len()];
    loop {
        match socket.recv_from(&mut probe).await {
            Ok((len, from)) if looker.was_ready() => {
                let answer = ANSWER.get(..len).unwrap_or(ANSWER);
                // Who is not there any more needs none.
                let _ = socket.send_to(answer, from).await;
            }
            Ok(_) => {}
            Err(_) => sleep(PAUSE).await,
        }
        sleep(BETWEEN).await;
    }
}
