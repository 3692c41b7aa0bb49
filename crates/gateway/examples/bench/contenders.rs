//! What is compared, each started with a configuration of its own below the folder of the run.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    Result, UPSTREAM_KEY,
    children::Process,
    sse,
    wire::{Address, CLIENT_KEY},
};

/// How many replicas the gateway serves. Each may have 64 connections, and 1,000 streams are wanted.
const REPLICAS: usize = 16;

/// A server, and where it is reached.
pub(crate) struct Contender {
    pub(crate) process: Process,
    pub(crate) at: Vec<Address>,
}

/// Returns where nginx is, if it is installed. Its folder is not on the path of every user.
pub(crate) fn nginx() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join("nginx"))
        .find(|program| program.is_file())
}

/// Starts nginx as the upstream: each POST is answered at once, with the same stream. It is reached by
/// TCP (the first address) and by a unix socket.
pub(crate) fn nginx_upstream(nginx: &Path, folder: &Path) -> Result<Contender> {
    let (tcp, socket) = (free_address()?, folder.join("upstream.sock"));
    let headers: String = sse::HEADERS
        .iter()
        .map(|(name, value)| format!("      add_header {name} \"{value}\";\n"))
        .collect();
    // Without a filter that might change the length, nginx would say it; the API can't.
    let server = format!(
        "  server {{\n    listen {tcp};\n    listen unix:{};\n    default_type \"text/event-stream; charset=utf-8\";\n    \
         location = /v1/messages {{\n{headers}      sub_filter_types *;\n      sub_filter \"no such text\" \"\";\n      \
         return 200 \"{}\";\n    }}\n  }}\n",
        socket.display(),
        sse::ANSWER.replace('\\', "\\\\").replace('"', "\\\"")
    );
    let process = start_nginx(nginx, folder, "upstream", &server, &socket)?;
    Ok(Contender { process, at: vec![Address::Tcp(tcp), Address::Unix(socket)] })
}

/// Starts nginx as a plain reverse proxy that does what a gateway must: it keeps connections to the upstream,
/// sets host and key, and hands on each event when it comes.
pub(crate) fn nginx_proxy(nginx: &Path, folder: &Path, upstream: &Address) -> Result<Contender> {
    let Address::Tcp(upstream) = upstream else {
        return Err("BUG: the upstream should be reached by TCP".into());
    };
    let socket = folder.join("proxy.sock");
    let server = format!(
        "  upstream api {{\n    server {upstream};\n    keepalive 64;\n    keepalive_requests 1000000000;\n  }}\n  \
         server {{\n    listen unix:{};\n    location / {{\n      proxy_pass http://api;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection \"\";\n      proxy_set_header Host {upstream};\n      \
         proxy_set_header Authorization \"\";\n      proxy_set_header x-api-key {UPSTREAM_KEY};\n      \
         proxy_buffering off;\n      proxy_read_timeout 310s;\n    }}\n  }}\n",
        socket.display()
    );
    let process = start_nginx(nginx, folder, "proxy", &server, &socket)?;
    Ok(Contender { process, at: vec![Address::Unix(socket)] })
}

fn start_nginx(
    nginx: &Path,
    folder: &Path,
    name: &'static str,
    server: &str,
    socket: &Path,
) -> Result<Process> {
    let prefix = folder.join(name);
    fs::create_dir(&prefix)?;
    let file = prefix.join("nginx.conf");
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|of| format!("  {of}_temp_path {of};\n"))
        .collect();
    // As root, nginx would give its work to a user that can't enter our folder.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    write!(
        File::create(&file)?,
        "daemon off;\n{user}worker_processes auto;\npid nginx.pid;\nerror_log stderr warn;\n\
         events {{\n  worker_connections 4096;\n}}\nhttp {{\n{paths}  access_log off;\n  \
         keepalive_requests 1000000000;\n  keepalive_timeout 300s;\n  \
         client_max_body_size 32m;\n  client_body_buffer_size 1m;\n{server}}}\n"
    )?;
    let mut command = Process::command(nginx);
    // `-e`: until it has read the file, it would complain into the log of the system's own nginx.
    command.args(["-e", "stderr", "-p"]).arg(&prefix).arg("-c").arg(&file);
    let mut process = Process::spawn("nginx", &mut command)?;
    process.wait_until(Duration::from_secs(10), || UnixStream::connect(socket).is_ok())?;
    Ok(process)
}

/// Starts the gateway, with a socket for each of its replicas.
pub(crate) fn gateway(folder: &Path, name: &str, upstream: &Address) -> Result<Contender> {
    let sockets: Vec<PathBuf> =
        (0..REPLICAS).map(|ix| folder.join(format!("{name}-{ix}/gateway.sock"))).collect();
    let mut arguments = vec!["serve-gateway".to_owned(), upstream.to_string()];
    arguments.extend(sockets.iter().map(|socket| socket.display().to_string()));
    let (process, _) = Process::start_own("the gateway", &arguments)?;
    Ok(Contender { process, at: sockets.into_iter().map(Address::Unix).collect() })
}

/// Starts the upstream that answers slowly, or with any body.
pub(crate) fn own_upstream() -> Result<Contender> {
    let (process, address) = Process::start_own("our upstream", &["serve-upstream".to_owned()])?;
    Ok(Contender { process, at: vec![Address::Tcp(address.parse()?)] })
}

/// Starts LiteLLM's proxy as its manual says for production: a worker for each core.
pub(crate) fn litellm(folder: &Path, cores: usize, upstream: &Address) -> Result<Contender> {
    let address = free_address()?;
    let config = folder.join("litellm.yaml");
    write!(
        File::create(&config)?,
        "model_list:\n  - model_name: \"*\"\n    litellm_params:\n      model: anthropic/*\n      \
         api_base: {upstream}\n      api_key: {UPSTREAM_KEY}\n"
    )?;
    let python = litellm_python()?;
    let program = python.with_file_name("litellm");
    let mut command = Process::command(&program);
    command.arg("--config").arg(&config).arg("--num_workers").arg(cores.to_string());
    command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
    // Nothing of the caller's environment; and it would fetch these lists at its start.
    command.env_clear().env("HOME", folder).env("PATH", "/usr/local/bin:/usr/bin:/bin");
    for name in [
        "ANTHROPIC_BETA_HEADERS",
        "AUTOROUTER_PRESETS",
        "BLOG_POSTS",
        "MODEL_COST_MAP",
        "POLICY_TEMPLATES",
    ] {
        command.env(format!("LITELLM_LOCAL_{name}"), "True");
    }
    command.env("LITELLM_MODE", "PRODUCTION").env("LITELLM_LOG", "ERROR");
    command.env("LITELLM_TELEMETRY", "False").env("LITELLM_MASTER_KEY", CLIENT_KEY);
    let log = File::create(folder.join("litellm.log"))?;
    command.stdout(log.try_clone()?).stderr(log);
    let mut process = Process::spawn("LiteLLM", command.current_dir(folder))?;
    process.wait_until(Duration::from_secs(300), || TcpStream::connect(address).is_ok())?;
    Ok(Contender { process, at: vec![Address::Tcp(address)] })
}

/// Returns the version of LiteLLM that is installed.
pub(crate) fn litellm_version() -> Option<String> {
    let code = "import importlib.metadata as m; print(m.version('litellm'))";
    let output = Command::new(litellm_python().ok()?).args(["-c", code]).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Returns the Python of the virtual environment that the tests of the supervisor keep for LiteLLM.
fn litellm_python() -> Result<PathBuf> {
    let installer =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../supervisor/tests/upstream/foreign-api");
    let output = Command::new(installer).arg("--install").output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("LiteLLM can't be installed: {said}").into());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// Returns an address of loopback that nobody listens on just now.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
