//! Services that know each other only by their events: one answers questions, one shows a conversation, one reacts to errors.
//!
//! Each is a process of its own; the broker between them may be killed and started again in the middle.
//!
//!     cargo run --example two_services                                # starts a redis-server for the time being
//!     cargo run --example two_services -- redis://localhost:6379      # or amqp://guest:guest@localhost:5672

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamll::consume::{Consumer, ConsumerState};
use streamll::topology::IntoSink;
use streamll::{
    BreakerPolicy, Event, SinkSpec, TokenStream as _, Topology, context, sinks, trace, with_context,
};
use tokio_stream::{StreamExt as _, iter};

type Outcome = Result<(), Box<dyn Error>>;

/// The stream of Redis, or the exchange of RabbitMQ.
const EVENTS: &str = "two_services";
const QUESTIONS: [(&str, &str); 3] = [
    ("conv_1", "The Moon pulls harder on the near side of the Earth, so the water bulges on both sides."),
    ("conv_2", "When Sun and Moon line up their pulls add: that is a spring tide. «Größe» 🌊 matters, too."),
    ("conv_3", "At half moon they work against each other, and the tide is neap."),
];

/// The service: three questions at once, and a tool that fails. It knows nothing of who reads.
async fn rag(url: &str) -> Outcome {
    let mut sink: SinkSpec = match url.starts_with("redis") {
        true => sinks::redis(url).stream_key(EVENTS).into_sink("live"),
        false => sinks::rabbitmq(url).exchange(EVENTS).into_sink("live"),
    };
    sink.breaker = BreakerPolicy {
        recovery_timeout: Duration::from_millis(500),
        recovery_max: Duration::from_secs(1),
        ..BreakerPolicy::default()
    };
    let handle = Topology::builder("rag-api").sink("live", sink).start()?;
    streamll::install(&handle);
    let pace: u64 = std::env::var("PACE_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(5);
    let answers = QUESTIONS.map(|(conversation, text)| {
        let run = trace("answer").module("RagPipeline").run(async move |_| {
            let model = iter(text.split_inclusive(' ')).throttle(Duration::from_millis(pace)); // a client of yours
            let tokens = model.tokens("answer", |text| Some(*text)).operation("llm_call");
            tokio::pin!(tokens);
            while tokens.next().await.is_some() {}
        });
        tokio::spawn(with_context(context! { conversation_id = conversation }, run))
    });
    for answer in answers {
        answer.await?;
    }
    let tool = trace("tide_table").module("Calculator").try_run(async |_| Err::<(), _>("upstream took 30 s"));
    let _ = with_context(context! { conversation_id = "conv_3" }, tool).await;
    let ended = handle.shutdown(Duration::from_secs(180)).await; // a broker that comes back may take its time
    println!("rag: everything arrived: {}", ended.complete);
    if let Some(live) = ended.status.sink("live").filter(|_| !ended.complete) {
        eprintln!("rag: {live}, {:?}", live.balance); // who still waits, and for what
    }
    Ok(())
}

/// The front end of one conversation: puts its tokens together, as its user sees them.
async fn chat(url: &str) -> Outcome {
    let shown = Arc::new(Mutex::new(String::new()));
    let tokens = shown.clone();
    let consumer = Consumer::connect(url, EVENTS)
        .group("chat-conv_2") // of Redis a group, of RabbitMQ a queue: what comes while it is away waits there
        .filter("data.conversation_id", "conv_2")
        .skip_duplicates(10_000) // a sink that is not sure sends again
        .on("token", move |event: Event| {
            let token =
                event.data("token").and_then(|token| token.as_str().map(str::to_owned)).unwrap_or_default();
            print!("{token}");
            if let Ok(mut shown) = tokens.lock() {
                shown.push_str(&token);
            }
        });
    let handle = consumer.handle();
    let consumer = consumer.on("end", move |event: Event| {
        // The step of the model says at its end what it said as a whole.
        if let Some(whole) = event.data("answer") {
            let shown = shown.lock().map(|shown| shown.clone()).unwrap_or_default();
            println!("\nchat: conv_2 is complete: {}", whole.as_str() == Some(&shown));
            handle.stop();
        }
    });
    run("chat", consumer).await
}

/// A workflow: an error anywhere starts it, and its event is done when the workflow is.
async fn alerts(url: &str) -> Outcome {
    let consumer = Consumer::connect(url, EVENTS).group("alerts").skip_duplicates(10_000);
    let handle = consumer.handle();
    let consumer = consumer.on_topic("ai.*.error", move |event| {
        let handle = handle.clone();
        async move {
            let why = event.data("error_message").map(|why| why.to_string()).unwrap_or_default();
            println!("alerts: opened a ticket: {} failed: {why}", event.module_name());
            handle.stop();
            Ok::<(), std::io::Error>(()) // an error would have it called again
        }
    });
    run("alerts", consumer).await
}

async fn run(name: &str, consumer: Consumer) -> Outcome {
    let handle = consumer.handle();
    let ready = async {
        while handle.status().state != ConsumerState::Consuming {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("{name}: ready");
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = consumer.run() => ended?,
        () = ready => unreachable!("it waits for ever"),
    };
    println!("{name}: the numbers balance: {}", ended.balances());
    Ok(())
}

/// Starts the three, the readers first, and shows what they say.
fn together(url: &str) -> Outcome {
    let start = |role: &str| {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([url, role]).stdout(Stdio::piped()).spawn()
    };
    let mut readers = Vec::new();
    for role in ["chat", "alerts"] {
        let mut child = start(role)?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("a pipe")?).lines();
        println!("{}", lines.next().ok_or("it ended early")??);
        readers.push((child, lines));
    }
    let service = start("rag")?.wait_with_output()?;
    print!("{}", String::from_utf8_lossy(&service.stdout));
    for (mut child, lines) in readers {
        for line in lines {
            println!("{}", line?);
        }
        child.wait()?;
    }
    Ok(())
}

/// A server for the time being, with nothing on disk.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [url, "rag"] => runtime.block_on(rag(url)),
        [url, "chat"] => runtime.block_on(chat(url)),
        [url, "alerts"] => runtime.block_on(alerts(url)),
        [url] => together(url),
        _ => {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let mut server = Command::new("redis-server");
            server
                .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()])
                .stdout(Stdio::null());
            let Ok(server) = server.spawn() else {
                println!(
                    "no redis-server is installed: start a broker elsewhere and name it, redis://… or amqp://…"
                );
                return Ok(());
            };
            let mut server = Server(server);
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                if let Some(status) = server.0.try_wait()? {
                    return Err(
                        format!("redis-server does not start ({status}): is port {port} taken?").into()
                    );
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            together(&format!("redis://127.0.0.1:{port}"))
        }
    }
}
