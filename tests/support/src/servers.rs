//! Real Redis and RabbitMQ servers of the tests' own: on private ports of the loopback, gone when the test is.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// Starts, signals and ends one server, as it is told on its standard input. The input ends when the test process does,
/// however it ends; then the server is killed, whatever else it started is ended, and its folder removed. (A group that
/// loses its parent while one of it is frozen is sent a hang-up, which the keeper must survive.)
const KEEPER: &str = r#"
trap '' HUP
folder=$1; shift; pid=
while read -r order; do
    case $order in
        start) "$@" >>"$folder/out" 2>&1 </dev/null & pid=$! ;;
        KILL) kill -KILL "$pid"; wait "$pid" ;;
        *) kill "-$order" "$pid" ;;
    esac
    echo "$pid"
done
[ -z "$pid" ] || kill -KILL "$pid"
trap '' TERM; kill -TERM 0; wait
rm -rf "$folder"
"#;

/// A server process that can be started again, and the folder that it lives in.
#[derive(Debug)]
struct Keeper {
    folder: PathBuf,
    orders: Mutex<Orders>,
}

#[derive(Debug)]
struct Orders {
    keeper: Child,
    /// Taken when it is to end.
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    running: bool,
}

impl Keeper {
    fn new(folder: PathBuf, server: &Command) -> Keeper {
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh"]).arg(&folder).arg(server.get_program()).args(server.get_args());
        keeper.envs(server.get_envs().filter_map(|(key, value)| Some((key, value?))));
        // A group of its own: Ctrl-C is for the test, whose end the keeper notices.
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut keeper = keeper.spawn().expect("sh is there");
        let (to, from) = (keeper.stdin.take(), keeper.stdout.take().expect("a pipe"));
        let orders = Mutex::new(Orders { keeper, to, from: BufReader::new(from), running: false });
        Keeper { folder, orders }
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an order, and waits until it is carried out.
    fn order(&self, order: &str) {
        let mut orders = self.lock();
        if order == "start" || order == "KILL" {
            let running = order == "start";
            if orders.running == running {
                return;
            }
            orders.running = running;
        }
        let to = orders.to.as_mut().expect("it is not dropped");
        writeln!(to, "{order}").expect("the keeper lives");
        let mut answer = String::new();
        orders.from.read_line(&mut answer).expect("the keeper answers");
    }

    /// Waits until `ready`; panics with what the server wrote when it never is.
    fn wait(&self, what: &str, limit: Duration, mut ready: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        while !ready() {
            if Instant::now() > deadline {
                let out = std::fs::read_to_string(self.folder.join("out")).unwrap_or_default();
                panic!("{what} does not start; it wrote:\n{out}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let mut orders = self.lock();
        orders.to.take();
        let _ = orders.keeper.wait();
    }
}

/// Says where a process that a test starts looks for its ports.
const PORTS: &str = "STREAMLL_TEST_PORTS";

fn next_port() -> &'static AtomicU16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Else far from those of the process with the next number, which may run at the same time.
    let given = || std::env::var(PORTS).ok()?.parse().ok();
    let first = || given().unwrap_or((std::process::id().wrapping_mul(7919) % 11_000) as u16);
    NEXT.get_or_init(|| AtomicU16::new(first()))
}

/// Gives a process that is to be started ports that nothing else of this test takes, also while a server is down.
pub fn with_ports(command: &mut Command) -> &mut Command {
    command.env(PORTS, next_port().fetch_add(100, Ordering::Relaxed).to_string())
}

/// A port of the loopback that is free and stays so while its server is down: below those that the system hands out,
/// where an attempt to connect can meet itself.
pub fn free_port() -> u16 {
    loop {
        let port = 20_000 + next_port().fetch_add(1, Ordering::Relaxed) % 12_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A folder that its keeper removes.
fn folder() -> PathBuf {
    tempfile::Builder::new().prefix("streamll-broker-").tempdir().expect("a folder").keep()
}

/// The program, where Debian, the `PATH` or Homebrew has it. A missing server is a failure, never a test left out.
#[track_caller]
fn program(name: &str, package: &str) -> PathBuf {
    // Debian's `rabbitmq-server` of the `PATH` runs for root alone, as another user; the real one is elsewhere.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", "/opt/homebrew/bin"].map(PathBuf::from);
    let folders = [PathBuf::from("/usr/lib/rabbitmq/bin")].into_iter();
    let found = folders.chain(std::env::split_paths(&path)).chain(more).map(|folder| folder.join(name));
    found.into_iter().find(|path| path.is_file()).unwrap_or_else(|| {
        panic!(
            "`{name}` is missing: `tests/run` installs it on Debian and Ubuntu (apt-get install {package}); \
             elsewhere install {package} with your package manager"
        )
    })
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("it can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{text}{said}");
    text.trim_end().to_owned()
}

/// A Redis server.
#[derive(Debug)]
pub struct RedisServer {
    keeper: Keeper,
    port: u16,
}

impl RedisServer {
    /// One that keeps nothing on disk.
    pub fn start() -> RedisServer {
        RedisServer::start_with(&[])
    }

    /// One that may become a node of a cluster. Left to itself, it would listen to other nodes 10,000 ports above its own,
    /// where the system hands ports out.
    pub fn start_for_cluster(args: &[&str]) -> RedisServer {
        let bus = free_port().to_string();
        RedisServer::start_with(&[&["--cluster-enabled", "yes", "--cluster-port", &bus], args].concat())
    }

    /// One with these arguments of `redis-server` besides.
    pub fn start_with(args: &[&str]) -> RedisServer {
        let (folder, port) = (folder(), free_port());
        let mut command = Command::new(program("redis-server", "redis-server"));
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--dir"])
            .arg(&folder);
        command.args(["--enable-debug-command", "yes"]).args(args);
        let server = RedisServer { keeper: Keeper::new(folder, &command), port };
        server.restart();
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The folder with its data.
    pub fn folder(&self) -> &Path {
        &self.keeper.folder
    }

    pub fn kill9(&self) {
        self.keeper.order("KILL");
    }

    /// Starts it again, on the same port and with the same data; kills it first, where it still runs.
    pub fn restart(&self) {
        self.kill9();
        self.keeper.order("start");
        self.keeper.wait("redis-server", Duration::from_secs(60), || self.answers().unwrap_or(false));
    }

    pub fn freeze(&self) {
        self.keeper.order("STOP");
    }

    pub fn thaw(&self) {
        self.keeper.order("CONT");
    }

    /// What `redis-cli` prints; an error reply is text like any other.
    pub fn cli(&self, args: &[&str]) -> String {
        let mut command = Command::new(program("redis-cli", "redis-tools"));
        run(command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).args(args))
    }

    /// Whether it takes commands; also without the password.
    fn answers(&self) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer[..5])?;
        stream.read_exact(&mut answer[5..7])?;
        Ok(!answer.starts_with(b"-LOAD"))
    }
}

/// A RabbitMQ node, in a world of its own: nothing of it is shared with a node that the machine may run.
#[derive(Debug)]
pub struct RabbitNode {
    keeper: Keeper,
    port: u16,
    env: Vec<(&'static str, String)>,
    /// Those that nobody has yet.
    vhosts: Mutex<Vec<String>>,
}

impl RabbitNode {
    /// The one node that all tests share that do not disturb it; each has a [`vhost`](Self::vhost) of its own.
    pub fn shared() -> &'static RabbitNode {
        static SHARED: OnceLock<RabbitNode> = OnceLock::new();
        SHARED.get_or_init(RabbitNode::start)
    }

    pub fn start() -> RabbitNode {
        RabbitNode::start_with("")
    }

    /// One with these lines of `rabbitmq.conf` besides.
    pub fn start_with(lines: &str) -> RabbitNode {
        let node = RabbitNode::prepare("x@localhost", free_port(), lines);
        node.restart();
        node
    }

    /// One of this name, which the port mapper on this port knows, not started yet.
    fn prepare(name: &str, epmd: u16, lines: &str) -> RabbitNode {
        let server = program("rabbitmq-server", "rabbitmq-server");
        let (folder, [port, distribution]) = (folder(), [(); 2].map(|()| free_port()));
        let conf = format!("listeners.tcp.1 = 127.0.0.1:{port}\nlog.console = false\n{lines}\n");
        std::fs::write(folder.join("rabbitmq.conf"), conf).expect("a file");
        std::fs::write(folder.join("plugins"), "[].").expect("a file");
        let below = |name: &str| folder.join(name).display().to_string();
        let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
        // Schedulers that spin for work take it from the others on a small machine.
        let calm = "+sbwt none +sbwtdcpu none +sbwtdio none";
        let env = vec![
            ("HOME", folder.display().to_string()),
            ("ERL_EPMD_PORT", epmd.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODENAME", name.to_owned()),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_DIST_PORT", distribution.to_string()),
            ("RABBITMQ_MNESIA_BASE", below("mnesia")),
            ("RABBITMQ_LOG_BASE", below("log")),
            ("RABBITMQ_PID_FILE", below("pid")),
            ("ERL_CRASH_DUMP", below("erl_crash.dump")),
            ("RABBITMQ_CONFIG_FILE", below("rabbitmq.conf")),
            ("RABBITMQ_CONF_ENV_FILE", below("rabbitmq-env.conf")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", below("plugins")),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", format!("{loopback} {calm}")),
            // Makes the node replace its shell, so that it is the process that is signalled.
            ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
        ];
        // Without a port mapper in the foreground, Erlang would start one that outlives the node.
        let script = "epmd & until epmd -names; do sleep 0.02; done; exec \"$0\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(server).envs(env.iter().map(|(key, value)| (key, value)));
        let keeper = Keeper::new(folder, &command);
        RabbitNode { keeper, port, env, vhosts: Mutex::default() }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `amqp://guest:guest@127.0.0.1:<port>/<vhost>`.
    pub fn url(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{}", self.port, vhost.replace('/', "%2f"))
    }

    /// A fresh virtual host, which `guest` may use.
    pub fn vhost(&self) -> String {
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let mut vhosts = self.vhosts.lock().unwrap_or_else(PoisonError::into_inner);
        if vhosts.is_empty() {
            // Several at once: starting `rabbitmqctl` costs half a second of processor time.
            vhosts.extend((0..8).map(|_| format!("v{}", NUMBER.fetch_add(1, Ordering::Relaxed))));
            let names: Vec<_> = vhosts.iter().map(|name| format!("<<\"{name}\">>")).collect();
            self.ctl(&[
                "eval",
                &format!(
                    "[begin rabbit_vhost:add(V, <<\"test\">>), rabbit_auth_backend_internal:set_permissions(\
                     <<\"guest\">>, V, <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"test\">>) end || V <- [{}]].",
                    names.join(",")
                ),
            ]);
        }
        vhosts.remove(0)
    }

    /// What `rabbitmqctl` prints, without its headings.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> String {
        let mut command = Command::new(program("rabbitmqctl", "rabbitmq-server"));
        let env = self.env.iter().filter(|(key, _)| !key.contains("_SERVER_"));
        command.envs(env.map(|(key, value)| (key, value)));
        run(command.arg("--silent").args(args))
    }

    /// What it logs.
    pub fn log(&self) -> String {
        let folder = std::fs::read_dir(self.keeper.folder.join("log")).into_iter().flatten().flatten();
        folder.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }

    pub fn kill9(&self) {
        self.keeper.order("KILL");
    }

    /// Starts it again, on the same port and with the same data; kills it first, where it still runs.
    pub fn restart(&self) {
        self.kill9();
        self.keeper.order("start");
        let ready = || self.answers().unwrap_or(false);
        self.keeper.wait("rabbitmq-server", Duration::from_secs(180), ready);
    }

    pub fn freeze(&self) {
        self.keeper.order("STOP");
    }

    pub fn thaw(&self) {
        self.keeper.order("CONT");
    }

    /// Whether it speaks AMQP.
    fn answers(&self) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        let mut answer = [0; 1];
        stream.read_exact(&mut answer)?;
        Ok(answer == [1])
    }
}

/// Three RabbitMQ nodes that form a cluster, in a world of their own.
#[derive(Debug)]
pub struct RabbitCluster {
    pub nodes: [RabbitNode; 3],
}

impl RabbitCluster {
    const NAMES: [&str; 3] = ["a@localhost", "b@localhost", "c@localhost"];

    pub fn start() -> RabbitCluster {
        let epmd = free_port();
        let mut lines = "cluster_formation.peer_discovery_backend = classic_config\n\
            cluster_formation.discovery_retry_limit = 1\ncluster_formation.discovery_retry_interval = 100\n"
            .to_owned();
        for (number, name) in RabbitCluster::NAMES.iter().enumerate() {
            lines += &format!("cluster_formation.classic_config.nodes.{} = {name}\n", number + 1);
        }
        let nodes = RabbitCluster::NAMES.map(|name| RabbitNode::prepare(name, epmd, &lines));
        for node in &nodes {
            let cookie = node.keeper.folder.join(".erlang.cookie");
            std::fs::write(&cookie, "ONECLUSTER").expect("a file");
            std::fs::set_permissions(&cookie, Permissions::from_mode(0o400)).expect("its owner's alone");
        }
        let cluster = RabbitCluster { nodes };
        cluster.restart(&[0, 1, 2]);
        cluster
    }

    /// Starts some of them again, all at once, and waits until every node runs.
    pub fn restart(&self, which: &[usize]) {
        thread::scope(|scope| {
            for node in which {
                scope.spawn(|| self.nodes[*node].restart());
            }
        });
        self.nodes[0].keeper.wait("the cluster", Duration::from_secs(60), || {
            self.nodes[0].ctl(&["eval", "length(rabbit_nodes:all_running())."]) == "3"
        });
    }

    /// One address for each node, separated by commas.
    pub fn urls(&self, vhost: &str) -> String {
        self.nodes.each_ref().map(|node| node.url(vhost)).join(",")
    }

    /// The node that leads a quorum queue, as a node that runs knows it; it may learn of another some time later.
    pub fn leader(&self, asked: &RabbitNode, vhost: &str, queue: &str) -> Option<usize> {
        let leaders = asked.ctl(&["list_queues", "-p", vhost, "name", "leader"]);
        let leader = leaders.lines().find_map(|line| line.strip_prefix(queue)).unwrap_or_default().trim();
        RabbitCluster::NAMES.iter().position(|name| *name == leader)
    }

    /// Has another node lead a quorum queue.
    pub fn lead(&self, asked: &RabbitNode, vhost: &str, queue: &str, node: usize) {
        asked.keeper.wait("the other leader", Duration::from_secs(60), || {
            let leader = self.leader(asked, vhost, queue);
            if let Some(from) = leader.filter(|leader| *leader != node) {
                let [from, to] = [from, node]
                    .map(|node| format!("{{'{vhost}_{queue}', '{}'}}", RabbitCluster::NAMES[node]));
                asked.ctl(&["eval", &format!("ra:transfer_leadership({from}, {to}).")]);
            }
            leader == Some(node)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_server_keeps_its_port_and_its_data_when_it_is_killed() {
        let redis = RedisServer::start_with(&["--appendonly", "yes"]);
        assert_eq!(redis.cli(&["SET", "a", "1"]), "OK");
        redis.kill9();
        assert!(std::net::TcpStream::connect(("127.0.0.1", redis.port())).is_err());
        redis.restart();
        assert_eq!(redis.cli(&["GET", "a"]), "1");
        redis.freeze();
        redis.thaw();
        assert_eq!(redis.cli(&["PING"]), "PONG");
    }

    #[test]
    fn a_rabbit_node_keeps_its_port_and_its_data_when_it_is_killed() {
        let node = RabbitNode::start();
        let (a, b) = (node.vhost(), node.vhost());
        assert_ne!(a, b);
        node.freeze();
        node.thaw();
        node.kill9();
        node.restart();
        let vhosts = node.ctl(&["list_vhosts"]);
        assert!(vhosts.lines().any(|line| line == a), "{vhosts}");
    }

    /// The end of the process is the end of its servers, also when it has no time for anything.
    #[test]
    fn servers_end_with_their_test_however_it_ends() {
        const INSIDE: &str = "STREAMLL_TEST_INSIDE";
        if std::env::var_os(INSIDE).is_some() {
            let (redis, rabbit) = (RedisServer::start(), RabbitNode::start());
            redis.freeze();
            let epmd = &rabbit.env.iter().find(|(key, _)| *key == "ERL_EPMD_PORT").expect("it has one").1;
            let folders = [&redis.keeper.folder, &rabbit.keeper.folder].map(|folder| folder.display());
            println!("\n{} {} {} {epmd} {}", folders[0], folders[1], redis.port, rabbit.port);
            thread::sleep(Duration::from_secs(120));
        }
        let mut inside = Command::new(std::env::current_exe().unwrap());
        inside.args([
            "--exact",
            "servers::tests::servers_end_with_their_test_however_it_ends",
            "--nocapture",
        ]);
        let mut inside = with_ports(&mut inside).env(INSIDE, "1").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(inside.stdout.take().unwrap()).lines();
        let line = lines.find_map(|line| line.ok().filter(|line| line.starts_with('/'))).expect("they start");
        inside.kill().unwrap();
        inside.wait().unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let is_there = |word: &&&str| match word.parse::<u16>() {
            Ok(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(),
            Err(_) => PathBuf::from(word).exists(),
        };
        assert_eq!(words.len(), 5);
        let deadline = Instant::now() + Duration::from_secs(60);
        while words.iter().any(|word| is_there(&word)) {
            assert!(Instant::now() < deadline, "still there: {:?}", words.iter().filter(is_there));
            thread::sleep(Duration::from_millis(10));
        }
    }
}
