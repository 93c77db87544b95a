//! Where those outside ask a run: listeners that are bound before the run begins, and served once it has begun.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use super::http::{self, Access};
use super::look::Looker;
use super::socket::{self, ControlSocket};
use super::token::Token;
use super::verbs::Verbs;
use super::{heartbeat, probes};
use crate::failure::Failure;
use crate::say::say;

/// Where the control socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SocketPlace {
    /// In the usual directory, if there is one.
    #[default]
    Usual,
    /// Here.
    At(PathBuf),
    /// Nowhere.
    None,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The control socket.
    pub socket: SocketPlace,
    /// HTTP.
    pub http: Option<SocketAddr>,
    /// What opens `/status` there.
    pub token_file: Option<PathBuf>,
    /// The TCP port for health checks.
    pub health_tcp: Option<SocketAddr>,
    /// The UDP port for health checks.
    pub health_udp: Option<SocketAddr>,
}

/// Connections that may wait.
const BACKLOG: i32 = 128;

/// A TCP address that is ours; who connects is refused until the run has begun.
struct Bound(Socket);

impl Bound {
    fn to(flag: &str, address: SocketAddr) -> Result<Self, Failure> {
        let bound = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let bound = bound.and_then(|socket| {
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            Ok(Self(socket))
        });
        bound.map_err(cannot_bind(flag, address))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        let address = self.0.local_addr()?.as_socket();
        address.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// From now on connections wait to be served.
    fn listen(&self) -> io::Result<()> {
        self.0.listen(BACKLOG)
    }

    fn served(self) -> io::Result<TcpListener> {
        TcpListener::from_std(self.0.into())
    }
}

/// The listeners, bound.
#[derive(Default)]
pub struct Station {
    socket: Option<UnixListener>,
    http: Option<(Bound, Access)>,
    health_tcp: Option<Bound>,
    health_udp: Option<UdpSocket>,
    /// What can be asked through the control socket, beside the status.
    pub verbs: Verbs,
}

impl Station {
    /// Binds what is asked for. The file of the control socket is there as long as its name, which comes with it.
    ///
    /// # Errors
    ///
    /// When something named cannot be bound, or the token cannot be read.
    pub fn open(places: &Places) -> Result<(Self, Option<socket::Name>), Failure> {
        let token = places.token_file.as_deref().map(Token::read).transpose()?;
        let http = match places.http {
            Some(address) => {
                let bound = Bound::to("--http", address)?;
                let address = bound.address()?;
                say(format!(
                    "vxtap: metrics, health and status on http://{address}/metrics, /healthz, /readyz, /status\n"
                ));
                Some((bound, Access::new(address, token)))
            }
            None => None,
        };
        let health_tcp = places.health_tcp;
        let health_udp = places.health_udp;
        let socket = control_socket(&places.socket)?;
        let (socket, name) = socket.map(ControlSocket::into_parts).unzip();
        let station = Self {
            socket,
            http,
            health_tcp: health_tcp
                .map(|address| Bound::to("--health-tcp", address))
                .transpose()?,
            health_udp: health_udp.map(udp).transpose()?,
            verbs: Verbs::default(),
        };
        Ok((station, name))
    }

    /// From now on whoever connects waits to be served, and is not refused.
    ///
    /// # Errors
    ///
    /// When somebody else has taken an address meanwhile.
    pub fn open_doors(&self) -> Result<(), Failure> {
        let http = self.http.as_ref().map(|(bound, _)| ("--http", bound));
        let health = self
            .health_tcp
            .as_ref()
            .map(|bound| ("--health-tcp", bound));
        for (flag, bound) in http.into_iter().chain(health) {
            let address = bound.address()?;
            bound.listen().map_err(cannot_bind(flag, address))?;
        }
        Ok(())
    }

    /// Serves all of them from now on; in the context of the runtime.
    ///
    /// # Errors
    ///
    /// When the runtime does not take a listener.
    pub(super) fn serve(self, looker: Looker) -> io::Result<()> {
        let looker = Arc::new(looker);
        let Self {
            socket,
            http,
            health_tcp,
            health_udp,
            mut verbs,
        } = self;
        tokio::spawn(heartbeat::beat(Arc::clone(&looker)));
        if let Some(socket) = socket {
            let looker = Arc::clone(&looker);
            verbs.add("status", move |_| {
                let looker = Arc::clone(&looker);
                Box::pin(async move { looker.status().await.line() })
            });
            tokio::spawn(socket::serve(socket, verbs));
        }
        if let Some((bound, access)) = http {
            tokio::spawn(http::serve(bound.served()?, Arc::clone(&looker), access));
        }
        if let Some(bound) = health_tcp {
            tokio::spawn(probes::tcp(bound.served()?));
        }
        if let Some(socket) = health_udp {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            tokio::spawn(probes::udp(socket, looker));
        }
        Ok(())
    }
}

fn control_socket(place: &SocketPlace) -> Result<Option<ControlSocket>, Failure> {
    match place {
        SocketPlace::None => Ok(None),
        SocketPlace::At(path) => ControlSocket::bind(path).map(Some).map_err(|error| {
            let path = path.display();
            Failure::running(format!(
                "cannot make the control socket {path}: {error}; name another one with --control, or none"
            ))
        }),
        SocketPlace::Usual => match ControlSocket::bind_usual() {
            Ok(socket) => {
                Ok(Some(socket))
            }
            Err(error) => {
                tracing::debug!("no control socket: {error}; --control names a place for one");
                Ok(None)
            }
        },
    }
}

fn cannot_bind(flag: &str, address: SocketAddr) -> impl FnOnce(io::Error) -> Failure {
    move |error| {
        Failure::running(format!(
            "cannot bind {flag} {address}: {error}; 'ss -lntup' shows who has it"
        ))
    }
}

fn udp(address: SocketAddr) -> Result<UdpSocket, Failure> {
    let bound = UdpSocket::bind(address).and_then(|socket| {
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    bound.map_err(cannot_bind("--health-udp", address))
}
