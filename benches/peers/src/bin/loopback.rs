//! Requests per second over loopback, alternating between two variants.
//!
//! Each variant is served by a process of its own on the first core, by one thread; the client runs on the second core.
//!
//! `loopback [A] [B] [rounds] [seconds]`; a variant is one of
//! `bare`, `governor`, `governor_headers`, `governor_bearer_headers`,
//! `keytally`, `keytally_counting` (a recorder without a sink), `tollgate`.
//! `loopback bare bare` shows the noise.

use std::{
    env,
    error::Error,
    future::IntoFuture,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ::keytally::usage::Recorder;
use axum::{
    body::Bytes,
    http::{Method, Request, StatusCode, header},
};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keytally_peers::{
    PATH, TOKEN, bare_router,
    governor::{self, NEVER_REJECTS},
    keytally::keytally,
    tollgate::{self, TollgateConnection},
};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Builder,
    task::JoinSet,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CONNECTIONS: usize = 64;
const WARM_UP: Duration = Duration::from_millis(300);

/// A served application: its address, the method of its route, and a valid secret.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    method: Method,
    secret: String,
}

/// Serves a variant on the current runtime.
async fn start(variant: &str) -> Result<Target> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut secret = TOKEN.to_owned();
    let router = match variant {
        "bare" => bare_router(),
        "governor" => bare_router().layer(governor::plain(NEVER_REJECTS)),
        "governor_headers" => bare_router().layer(governor::headers(NEVER_REJECTS)),
        "governor_bearer_headers" => bare_router().layer(governor::bearer_headers(NEVER_REJECTS)),
        "keytally" | "keytally_counting" => {
            // It blocks on its own runtime, which is not allowed on this runtime's threads.
            let mut keytally = std::thread::spawn(keytally).join().unwrap();
            if variant == "keytally_counting" {
                keytally.layer = keytally.layer.recorder(Recorder::counting());
            }
            let router = bare_router().layer(keytally.layer.clone());
            secret = keytally.secret.clone();
            // Keeps the recorder running until the process exits.
            std::mem::forget(keytally);
            router
        }
        "tollgate" => {
            let app = tollgate::app(16 * tollgate::QUEUE).await;
            let router = app.router.clone();
            let service = router.into_make_service_with_connect_info::<TollgateConnection>();
            tokio::spawn(async move {
                let _app = app; // Stops its tasks when dropped.
                axum::serve(listener, service).await
            });
            return Ok(Target {
                address,
                method: Method::POST,
                secret,
            });
        }
        _ => return Err(format!("unknown variant {variant}").into()),
    };
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(axum::serve(listener, service).into_future());
    Ok(Target {
        address,
        method: Method::GET,
        secret,
    })
}

/// Sends requests one after another over a keep-alive connection until `end`.
/// Returns the number of responses after `begin`.
async fn connection(target: Target, begin: Instant, end: Instant) -> Result<u64> {
    let stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    let request = Request::builder()
        .method(target.method)
        .uri(PATH)
        .header(header::HOST, target.address.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {}", target.secret))
        .body(Empty::<Bytes>::new())?;
    let mut completed = 0;
    loop {
        sender.ready().await?;
        let response = sender.send_request(request.clone()).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("unexpected status {}", response.status()).into());
        }
        response.into_body().collect().await?;
        let now = Instant::now();
        if now >= end {
            return Ok(completed);
        }
        completed += u64::from(now >= begin);
    }
}

/// Requests per second over all connections.
async fn round(target: &Target, length: Duration) -> Result<f64> {
    let begin = Instant::now() + WARM_UP;
    let end = begin + length;
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        tasks.spawn(connection(target.clone(), begin, end));
    }
    let mut completed = 0;
    while let Some(task) = tasks.join_next().await {
        completed += task??;
    }
    Ok(completed as f64 / length.as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

/// A process that serves a variant. Killed on drop.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Restricts this process to one core.
fn pin_to(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// Starts a process that serves a variant.
fn spawn(variant: &str) -> Result<(Server, Target)> {
    let mut command = Command::new(env::current_exe()?);
    let command = command.args([SERVE, variant]).stdout(Stdio::piped());
    let mut server = Server(command.spawn()?);
    let output = server.0.stdout.take().ok_or("no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let [address, method, secret] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err(format!("the server of {variant} did not start").into());
    };
    let target = Target {
        address: address.parse()?,
        method: method.parse()?,
        secret: secret.to_owned(),
    };
    Ok((server, target))
}

/// Serves a variant until the process is killed.
fn serve(variant: &str) -> Result<()> {
    pin_to(0)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let target = runtime.block_on(start(variant))?;
    println!("{} {} {}", target.address, target.method, target.secret);
    runtime.block_on(std::future::pending())
}

const SERVE: &str = "serve";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let arg = |index: usize, default| args.get(index).map_or(default, String::as_str);
    if arg(0, "") == SERVE {
        return serve(arg(1, "bare"));
    }
    let (a, b) = (arg(0, "bare"), arg(1, "governor_headers"));
    let rounds: usize = arg(2, "7").parse()?;
    let length = Duration::from_secs_f64(arg(3, "3").parse()?);
    let (_server_a, target_a) = spawn(a)?;
    let (_server_b, target_b) = spawn(b)?;
    pin_to(1)?;
    let client = Builder::new_current_thread().enable_all().build()?;

    println!("A = {a}, B = {b}, {CONNECTIONS} connections, {length:?} a round");
    println!("round         A/s         B/s     B/A");
    let mut results = Vec::new();
    for number in 1..=rounds {
        let a = client.block_on(round(&target_a, length))?;
        let b = client.block_on(round(&target_b, length))?;
        println!("{number:5}{a:12.0}{b:12.0}{:8.4}", b / a);
        results.push((a, b));
    }
    let column = |value: fn(&(f64, f64)) -> f64| median(results.iter().map(value).collect());
    println!(
        "median{:11.0}{:12.0}{:8.4}",
        column(|(a, _)| *a),
        column(|(_, b)| *b),
        column(|(a, b)| b / a)
    );
    Ok(())
}
