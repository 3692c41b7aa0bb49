//! What an agent tries to get out of its container, and a container that is more open than it should be.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use supervisor::api::types::TaskStatus;

use crate::world::{World, skip, text};

/// What a script that looks for a way out says of each way that it tries. It needs nothing but bash.
const WAYS: &str = r#"
ask() { # what it is called; what is said
  exec 3<>"/dev/tcp/127.0.0.1/${HTTPS_PROXY##*:}"
  printf "$2\r\n\r\n" >&3
  read -r -t 30 line <&3
  echo "$1 -> ${line%$'\r'}"
  exec 3>&-
}
connect() { ask "CONNECT $1" "CONNECT $1 HTTP/1.1\r\nhost: $1"; }
get() {
  local host=${1#http://}
  ask "GET $1" "GET $1 HTTP/1.1\r\nhost: ${host%%/*}\r\nconnection: close"
}
direct() { # tcp or udp, address, port
  said=$( (timeout 4 bash -c "exec 3<>/dev/$1/$2/$3; echo x >&3") 2>&1 )
  local code=$? why=${said%%$'\n'*}
  echo "$1 $2 $3 -> $code ${why##*: }"
}
"#;

/// A network in which somebody listens at an address that is out on the internet: the daemon's side of it.
/// The addresses are of a block that is assigned, and that nobody uses.
struct Internet {
    name: String,
    /// The server's address.
    server: String,
}

impl Internet {
    /// Starts it, the `number`th at a time, with a server on port 80 that answers every connection with
    /// `hello from outside`.
    fn start(world: &World, number: u8) -> Self {
        let id = world.installation_id();
        let (name, label) = (format!("{id}-net"), format!("supervisor.installation={id}"));
        let internet = Self { name: name.clone(), server: Self::server(number) };
        let program = "import socket\ns=socket.create_server((\"\",80))\nwhile 1:\n c,_=s.accept()\n \
                      c.recv(9999)\n c.sendall(b\"HTTP/1.0 200 OK\\r\\n\\r\\nhello from outside\\n\")\n \
                      c.close()";
        docker(&[
            "network",
            "create",
            "--label",
            &label,
            "--subnet",
            &format!("11.201.{number}.0/28"),
            &name,
        ]);
        let image = format!("supervisor-worker:{}", supervisor::config::CLI_VERSION);
        docker(&[
            "run",
            "--detach",
            "--label",
            &label,
            "--name",
            &name,
            "--network",
            &name,
            "--ip",
            &internet.server,
            "--user",
            "0",
            "--entrypoint",
            "python3",
            &image,
            "-c",
            program,
        ]);
        // From the host it is reached.
        let server = (internet.server.as_str(), 80);
        world.wait_ref("the server answers", |_| TcpStream::connect(server).ok());
        internet
    }

    fn server(number: u8) -> String {
        format!("11.201.{number}.3")
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        for args in [["rm", "--force"], ["network", "rm"]] {
            let _ = Command::new("docker").args(args).arg(&self.name).output();
        }
    }
}

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {}", text(&output.stderr));
    text(&output.stdout) + &text(&output.stderr)
}

/// Returns the lines that `script` prints in a container of worker `spy`, which may reach `egress`.
fn look(world: &World, script: &str) -> Vec<String> {
    world.write("workspaces/spy/look.sh", &format!("{WAYS}{script}"));
    world.add("spy", "look", "Look for a way out", &[]);
    assert_eq!(world.ended(&["look"]), [TaskStatus::Complete]);
    let seen = world.result("spy", "look");
    seen["summary"].as_str().unwrap().lines().map(str::to_owned).collect()
}

fn make_spy(world: &World, egress: &[&str]) {
    world.write(
        "workspaces/spy/worker.toml",
        &format!(
            "description = \"Looks around.\"\ncommand = [\"bash\", \"/workspace/look.sh\"]\n\
             container = \"resident\"\negress = {egress:?}\n"
        ),
    );
}

/// Asserts what became of a try.
fn assert_answer(seen: &[String], tried: &str, answer: &str) {
    let found = seen.iter().find_map(|line| line.strip_prefix(&format!("{tried} -> ")));
    let found = found.unwrap_or_else(|| panic!("`{tried}` was not tried: {seen:#?}"));
    assert!(found.contains(answer), "{tried}: {found}");
}

/// Asserts that the daemon's log has a line with the refusal.
fn assert_logged(world: &World, parts: &[&str]) {
    let log = world.log();
    let is_it = |line: &&str| {
        line.contains("Egress refused.") && parts.iter().all(|part| line.contains(part))
    };
    let line = log.lines().find(is_it).unwrap_or_else(|| panic!("{parts:?} is not in\n{log}"));
    assert!(line.contains("spy-1") && line.contains("WARN"), "{line}");
}

#[test]
fn docker_container_reaches_no_host_but_those_on_its_list() {
    const TEST: &str = "docker_container_reaches_no_host_but_those_on_its_list";
    let Some(mut world) = World::of_containers(TEST) else { return };
    // Names of an honest look, which somebody has pointed into the network of the machine.
    let hosts = format!(
        "127.0.0.1 localhost\n127.0.0.1 local.example.com\n10.1.2.3 private.example.com\n\
         169.254.169.254 metadata.example.com\n{server} both.example.com\n127.0.0.1 both.example.com\n\
         {server} allowed.example.com\n",
        server = Internet::server(1)
    );
    if !world.set_hosts(&hosts) {
        return skip(TEST, "no file system of its own for the daemon; that takes root")
            .unwrap_or(());
    }
    // Whoever is led here by such a name has found a service of the machine.
    let inside = TcpListener::bind("127.0.0.1:0").unwrap();
    inside.set_nonblocking(true).unwrap();
    let port = inside.local_addr().unwrap().port();
    let rule = |name: &str| format!("{name}.example.com:{port}");
    let rules = [rule("local"), rule("private"), rule("both"), rule("metadata")];
    let mut egress: Vec<&str> = rules.iter().map(String::as_str).collect();
    egress.extend(["metadata.example.com:80", "allowed.example.com:80"]);
    make_spy(&world, &egress);
    let _internet = Internet::start(&world, 1);
    let world = world.start("");

    let script = format!(
        "connect example.com:443; get http://example.com/; connect 1.1.1.1:443; connect [::1]:{port}
         connect 127.0.0.1:{port}; connect 2130706433:{port}; connect localhost:{port}
         connect 169.254.169.254:80; get http://169.254.169.254/latest/meta-data/
         connect {}; connect {}; connect {}; connect metadata.example.com:80
         connect allowed.example.com:443
         get http://allowed.example.com/; connect allowed.example.com:80",
        rule("local"),
        rule("private"),
        rule("both"),
    );
    let seen = look(&world, &script);

    // What is allowed goes through, so the rest is refused and not just broken.
    assert_answer(&seen, "GET http://allowed.example.com/", " 200 ");
    assert_answer(&seen, "CONNECT allowed.example.com:80", " 200 ");
    let setting = |rule: &str| format!("add \"{rule}\" to `egress` in workspaces/spy/worker.toml");
    let unlisted = "is not among the hosts that this worker may reach";
    for (tried, rule) in [
        ("CONNECT example.com:443", "example.com"),
        ("GET http://example.com/", "example.com:80"),
        ("CONNECT allowed.example.com:443", "allowed.example.com"),
    ] {
        assert_answer(&seen, tried, "HTTP/1.1 403 ");
        assert_answer(&seen, tried, unlisted);
        assert_answer(&seen, tried, &setting(rule));
        assert_logged(&world, &[unlisted, &setting(rule).replace('"', "\\\"")]);
    }
    for host in ["1.1.1.1", "[::1]", "127.0.0.1", "2130706433", "localhost", "169.254.169.254"] {
        let tried = format!("CONNECT {host}:");
        let tried = seen.iter().find(|line| line.starts_with(&tried)).unwrap();
        assert!(tried.contains(" 403 ") && tried.contains("can't be reached"), "{tried}");
        assert_logged(&world, &[&format!("`{host}` can't be reached")]);
    }
    assert_answer(&seen, "GET http://169.254.169.254/latest/meta-data/", " 403 ");
    for (name, kind) in [
        (rule("local"), "loopback"),
        (rule("private"), "private"),
        // One bad address among good ones is enough.
        (rule("both"), "loopback"),
        ("metadata.example.com:80".to_owned(), "cloud metadata"),
    ] {
        let why = format!("leads to an address that is not public ({kind})");
        assert_answer(&seen, &format!("CONNECT {name}"), "HTTP/1.1 403 ");
        assert_answer(&seen, &format!("CONNECT {name}"), &why);
        assert_logged(&world, &[&name, &why]);
    }
    assert_eq!(inside.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn docker_container_has_no_way_past_its_gateway() {
    let Some(world) = World::of_containers("docker_container_has_no_way_past_its_gateway") else {
        return;
    };
    make_spy(&world, &[]);
    let world = world.start("");
    // Another replica, whose socket is open by then.
    world.add("marie", "private", "Keep it to yourself", &[]);
    assert_eq!(world.ended(&["private"]), [TaskStatus::Complete]);
    let sockets = world.sockets();
    let (api, other) = (sockets.join("api.sock"), sockets.join("gateway/marie-1/gateway.sock"));
    assert!(api.exists() && other.exists());

    let script = format!(
        "direct tcp 1.1.1.1 443; direct udp 1.1.1.1 53; direct tcp 8.8.8.8 53; direct udp 8.8.8.8 53
         direct tcp 169.254.169.254 80; direct tcp 172.17.0.1 22; direct tcp 10.0.0.1 80
         direct tcp 2606:4700:4700::1111 443
         while read -r word server; do [ $word = nameserver ] && direct udp $server 53; done </etc/resolv.conf
         echo \"name -> $(getent hosts example.com || echo unknown)\"
         echo \"sockets -> $(find / -type s -not -path '/proc/*' 2>/dev/null | tr '\\n' ' ') \
           $([ -S /run/gateway/gateway.sock ] && echo own)\"
         for path in {api} {other} {folder} /var/run/docker.sock /run/gateway/../supervisor; do
           [ -e $path ] && echo \"ESCAPED: $path is there\"
         done
         for path in /v1/health /v1/runs /v1/status; do get $path; done
         unshare -rn true 2>/dev/null && echo \"ESCAPED: a network of its own\"
         echo end",
        api = api.display(),
        other = other.display(),
        folder = sockets.display(),
    );
    let seen = look(&world, &script);

    assert!(seen.iter().any(|line| line == "end"), "{seen:#?}");
    let escaped: Vec<_> = seen.iter().filter(|line| line.contains("ESCAPED")).collect();
    assert!(escaped.is_empty(), "{seen:#?}");
    let direct: Vec<_> =
        seen.iter().filter(|line| line.starts_with("tcp") || line.starts_with("udp")).collect();
    assert!(direct.len() >= 8, "{seen:#?}");
    for line in direct {
        // The second where the container has no IPv6 at all.
        let no_way = ["-> 1 Network is unreachable", "-> 1 Cannot assign requested address"];
        assert!(no_way.iter().any(|end| line.ends_with(end)), "{line}");
    }
    assert_answer(&seen, "name", "unknown");
    // Its own can be opened, and not even listed.
    assert!(seen.iter().any(|line| line == "sockets ->  own"), "{seen:#?}");
    // Its socket leads to the model's API and not to the daemon's: there they are not known.
    for path in ["/v1/health", "/v1/runs", "/v1/status"] {
        assert_answer(&seen, &format!("GET {path}"), "HTTP/1.1 404 ");
    }
    let container = format!("supervisor-{}-spy-1", world.installation_id());
    let said = docker(&["logs", &container]);
    assert!(said.contains("The walls hold, and the gateway answers."), "{said}");
}

#[test]
fn docker_container_with_a_network_does_not_serve_and_says_why() {
    const TEST: &str = "docker_container_with_a_network_does_not_serve_and_says_why";
    let Some(mut world) = World::of_containers(TEST) else { return };
    let Some(engine) = LyingEngine::start(&world.path("engine.sock")) else {
        return skip(TEST, "the engine is not on a socket of this host").unwrap_or(());
    };
    world.set_engine(&format!("unix://{}", world.path("engine.sock").display()));
    make_spy(&world, &[]);
    world.write("workspaces/spy/look.sh", "echo served");
    let world = world.start("");
    world.add("spy", "look", "Look around", &["--retries", "0"]);

    let paused = world.wait_ref("the worker is paused", |world| {
        world.status().workers.into_iter().find_map(|worker| worker.paused)
    });

    let why =
        "spy-1 does not serve: the network can be reached from its container: there is a route";
    assert!(paused.message.starts_with(why), "{paused}");
    assert_eq!(world.task("look").status, TaskStatus::Ready);
    let shown = text(&world.expect(0, &["status"]).stdout);
    assert!(shown.split_whitespace().collect::<Vec<_>>().join(" ").contains(why), "{shown}");
    assert!(world.log().lines().any(|l| l.contains("ERROR") && l.contains("does not serve")));
    // It was not the task's fault.
    engine.lies.store(false, Ordering::SeqCst);
    world.expect(0, &["retry", "look"]);
    assert_eq!(world.ended(&["look"]), [TaskStatus::Complete]);
}

#[test]
fn docker_container_that_has_its_gateway_by_tcp_reaches_nothing_else() {
    const TEST: &str = "docker_container_that_has_its_gateway_by_tcp_reaches_nothing_else";
    let Some(world) = World::of_containers(TEST) else { return };
    // It is the neighbour that is looked for, and stays.
    world.write(
        "workspaces/marie/worker.toml",
        "description = \"stays\"\ncontainer = \"resident\"\n",
    );
    let id = world.installation_id();
    let network = format!("supervisor-{id}");
    let networks = || docker(&["network", "ls", "--format", "{{.Name}}"]);
    let settings = std::fs::read_to_string(world.path("supervisor.toml")).unwrap();
    world.write("supervisor.toml", &format!("{settings}gateway = \"tcp\"\n"));
    make_spy(&world, &[]);
    // One that leads out is not taken, whoever made it.
    docker(&["network", "create", "--label", &format!("supervisor.installation={id}"), &network]);
    let mut world = world.start("");
    world.add("marie", "first", "Do it", &[]);
    let paused = world.wait_ref("the worker is paused", |world| {
        world.status().workers.into_iter().find_map(|worker| worker.paused)
    });
    assert!(paused.message.contains(&network), "{paused}");
    docker(&["network", "rm", &network]);
    world.expect(0, &["retry", "first"]);
    // The real CLI, whose requests go by the port.
    assert_eq!(world.ended(&["first"]), [TaskStatus::Complete]);
    assert!(networks().lines().any(|line| line == network));

    let internet = Internet::start(&world, 2);
    let door = |replica: &str| {
        let file = world.sockets().join("gateway").join(replica).join("door.json");
        let door: serde_json::Value =
            serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        (door["address"].as_str().unwrap().to_owned(), door["secret"].as_str().unwrap().to_owned())
    };
    let (address, secret) = door("marie-1");
    let (host, port) = address.split_once(':').unwrap();
    let marie = format!("supervisor-{id}-marie-1");
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let neighbour = docker(&["inspect", "--format", format, &marie]);
    let script = format!(
        "direct tcp {outside} 80; direct tcp {neighbour} 3128; direct tcp 169.254.169.254 80
         echo \"name -> $(timeout 4 getent hosts example.com || echo unknown)\"
         connect example.com:443
         own=${{HTTPS_PROXY%@*}}; own=${{own##*/}}
         basic=$(printf %s $own | base64 -w0)
         ask own \"CONNECT example.com:443 HTTP/1.1\\r\\nhost: example.com:443\\r\\nproxy-authorization: Basic $basic\"
         HTTPS_PROXY=x:{port}
         exec 3<>/dev/tcp/{host}/{port}
         printf \"GET /v1/models HTTP/1.1\\r\\nhost: x\\r\\nx-supervisor-secret: ${{own#*:}}\\r\\n\\r\\n\" >&3
         read -r -t 30 line <&3; echo \"neighbour's -> $line\"
         echo end",
        outside = internet.server,
        neighbour = neighbour.trim(),
    );
    let seen = look(&world, &script);
    assert!(seen.iter().any(|line| line == "end"), "{seen:#?}");
    // Nothing comes back, not even a refusal.
    for tried in [
        format!("tcp {} 80", internet.server),
        format!("tcp {} 3128", neighbour.trim()),
        "tcp 169.254.169.254 80".to_owned(),
    ] {
        assert_answer(&seen, &tried, "124");
    }
    assert_answer(&seen, "name", "unknown");
    assert_answer(&seen, "CONNECT example.com:443", " 407 ");
    assert_answer(&seen, "own", "is not among the hosts that this worker may reach");
    assert_answer(&seen, "neighbour's", " 401 ");
    assert!(!docker(&["inspect", &marie]).contains(&secret));

    // The next daemon listens at another port. The container finds it, and its secret still counts.
    let container = || docker(&["inspect", "--format", "{{.Id}}", &marie]);
    let before = container();
    world.kill_daemon();
    world.start_daemon();
    world.add("marie", "second", "Do more", &[]);
    assert_eq!(world.ended(&["second"]), [TaskStatus::Complete]);
    assert_eq!(container(), before);

    world.expect(0, &["down"]);
    world.forget_daemon();
    assert!(!networks().lines().any(|line| line == network));
}

/// An engine that gives containers the default network when they are to have none.
struct LyingEngine {
    lies: Arc<AtomicBool>,
}

impl LyingEngine {
    const TOLD: &[u8] = br#""NetworkMode":"none""#;
    const DONE: &[u8] = br#""NetworkMode":""    "#;

    fn start(socket: &Path) -> Option<Self> {
        let real = match std::env::var("DOCKER_HOST") {
            Ok(host) => host.strip_prefix("unix://")?.to_owned(),
            Err(_) => "/var/run/docker.sock".to_owned(),
        };
        let listener = UnixListener::bind(socket).unwrap();
        let lies = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&lies);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let engine = UnixStream::connect(&real).unwrap();
                let (from, to) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
                let flag = Arc::clone(&flag);
                thread::spawn(move || pass(from, to, |bytes| twist(bytes, &flag)));
                thread::spawn(move || pass(engine, client, |bytes| bytes.len()));
            }
        });
        Some(Self { lies })
    }
}

/// Passes bytes on, as many at a time as `ready` says, which may change them.
fn pass(mut from: UnixStream, mut to: UnixStream, ready: impl Fn(&mut Vec<u8>) -> usize) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 65536]);
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..len]);
        let ready = ready(&mut bytes);
        if to.write_all(&bytes[..ready]).is_err() {
            break;
        }
        bytes.drain(..ready);
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Twists what the engine is told. Returns how much can be passed on: not the beginning of what may
/// yet have to be twisted.
fn twist(bytes: &mut [u8], lies: &AtomicBool) -> usize {
    let told = LyingEngine::TOLD;
    if lies.load(Ordering::SeqCst)
        && let Some(at) = bytes.windows(told.len()).position(|window| window == told)
    {
        bytes[at..at + told.len()].copy_from_slice(LyingEngine::DONE);
    }
    let held = (1..told.len()).rev().find(|&n| bytes.ends_with(&told[..n])).unwrap_or(0);
    bytes.len() - held
}
