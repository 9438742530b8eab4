//! A proxy that cuts connections between a request and its response.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct Proxy {
    port: u16,
    cuts: Arc<AtomicBool>,
}

impl Proxy {
    /// Listens on a port of its own. Ends with the process.
    pub(crate) fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = Arc::new(AtomicBool::new(false));
        let armed = cuts.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else {
                    continue;
                };
                // Whether the response to a script is to be dropped.
                let cut = Arc::new(AtomicBool::new(false));
                let [of_requests, of_responses] = [(); 2].map(|()| cut.clone());
                let streams = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                let [from_client, from_server] = streams;
                let armed = armed.clone();
                std::thread::spawn(move || {
                    forward(from_client, server, |bytes| {
                        let is_script = bytes.windows(7).any(|part| part == b"EVALSHA");
                        if is_script && armed.swap(false, Ordering::SeqCst) {
                            of_requests.store(true, Ordering::SeqCst);
                        }
                        true
                    });
                });
                std::thread::spawn(move || {
                    // Responses to scripts are arrays.
                    forward(from_server, client, |bytes| {
                        !of_responses.load(Ordering::SeqCst) || !bytes.contains(&b'*')
                    });
                });
            }
        });
        Self { port, cuts }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Forwards the next script, and closes the connection instead of forwarding its response.
    pub(crate) fn cut_next(&self) {
        self.cuts.store(true, Ordering::SeqCst);
    }
}

/// Forwards bytes until a stream ends or `passes` returns false, and closes both.
fn forward(mut from: TcpStream, mut to: TcpStream, passes: impl Fn(&[u8]) -> bool) {
    let mut bytes = [0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if !passes(&bytes[..count]) || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
