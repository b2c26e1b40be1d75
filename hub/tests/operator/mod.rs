//! An operator with a directory, and a management cluster that can do nothing but list its Tenants.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::SystemTime,
};

use berth_common::{
    identity::{CertificateFacts, KeyId},
    tls::{TlsFiles, TlsSource, certificates_from_pem, server_name},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What a command did.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    /// Its stderr.
    pub(crate) notes: String,
}

impl Ran {
    pub(crate) fn done(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.out, self.notes);
        self
    }

    /// The one line that says why not.
    pub(crate) fn failure(&self) -> &str {
        let line = self.notes.trim();
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    }

    /// How many lines for the audit log it left.
    pub(crate) fn trail(&self) -> usize {
        let rotated = |line: &&str| line.contains(r#""reason":"ca_rotate""#);
        self.notes.lines().filter(rotated).count()
    }
}

/// See the module.
pub(crate) struct Operator {
    directory: TempDir,
    tenants: Arc<Mutex<Vec<Value>>>,
}

impl Operator {
    /// With a new authority, in the directory `ca`.
    pub(crate) fn with_authority() -> Self {
        let operator = Self::new();
        operator.run("ca init --dir {ca}").done();
        operator
    }

    /// With a copy of an authority, and of what another operator has issued.
    pub(crate) fn beside(other: &Self, authority: &Path) -> Self {
        let operator = Self::new();
        copy(authority, &operator.path("ca"));
        copy(&other.path("before"), &operator.path("before"));
        operator
    }

    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let served = listener.local_addr().unwrap().port();
        let tenants = Arc::new(Mutex::new(Vec::new()));
        let listed = Arc::clone(&tenants);
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A command that was killed has no use for its answer.
                let _ = answer(stream.unwrap(), &listed);
            }
        });
        // Bound and gone: nobody answers there.
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
        for (name, port) in [
            ("kubeconfig", served),
            ("nobody", nobody.local_addr().unwrap().port()),
        ] {
            let config = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "it",
                "clusters": [{ "name": "it", "cluster": { "server": format!("http://127.0.0.1:{port}") } }],
                "users": [{ "name": "it", "user": {} }],
                "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
            });
            fs::write(directory.path().join(name), config.to_string()).unwrap();
        }
        drop(nobody);
        Self { directory, tenants }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// These Tenants there are from now on.
    pub(crate) fn tenants<const N: usize>(&self, tenants: [Value; N]) {
        *self.tenants.lock().unwrap() = tenants.into();
    }

    /// Runs `berth-hub` as typed, with access to the cluster; `{ca}` stands for the authority's directory.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.run_alone(&format!("{line}{}", self.kubeconfig(line)))
    }

    /// The same without access to any.
    pub(crate) fn run_alone(&self, line: &str) -> Ran {
        let output = self.command(line).output().unwrap();
        Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            notes: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs it until it says this, kills it, and returns what it had said. It has to end by itself some time where it never does.
    pub(crate) fn until(&self, line: &str, words: &str) -> String {
        let mut command = self.command(&format!("{line}{}", self.kubeconfig(line)));
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains(words) {
            let read = out.read_line(&mut said).unwrap();
            assert!(read > 0, "it ended without {words:?}: {said}");
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), None, "it had ended by itself: {said}");
        said
    }

    /// `ca init` and `cert issue` have nothing to do with a cluster.
    fn kubeconfig(&self, line: &str) -> String {
        let needs = line.starts_with("ca status") || line.starts_with("ca rotate");
        let path = self.path("kubeconfig").display().to_string();
        match needs {
            true => format!(" --kubeconfig {path}"),
            false => String::new(),
        }
    }

    fn command(&self, line: &str) -> Command {
        let path = |name: &str| self.path(name).display().to_string();
        let line = line
            .replace("{ca}", &path("ca"))
            .replace("{nobody}", &path("nobody"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth-hub"));
        command.env_clear().args(line.split_whitespace());
        command.stdin(Stdio::null());
        command
    }

    /// Issues a certificate for a hub and one for an agent, both in the directory of that name.
    pub(crate) fn issue(&self, name: &str) {
        for (subject, whose) in [
            ("hub", "--server --ip 127.0.0.1"),
            ("agent", "--tenant acme"),
        ] {
            let out = self.path(name).join(subject).display().to_string();
            self.run(&format!("cert issue {whose} --ca-dir {{ca}} --out {out}"))
                .done();
        }
        // Whom they were told to trust: both the same.
        fs::copy(
            self.path(name).join("agent/ca.crt"),
            self.path(name).join("ca.crt"),
        )
        .unwrap();
    }

    /// Whether every hub of these and every agent of these meet, trusting what the authority's directory says now.
    pub(crate) fn all_meet(&self, names: &[&str]) -> bool {
        let bundle = self.path("ca/ca.crt");
        let pairs = names
            .iter()
            .flat_map(|hub| names.iter().map(move |agent| (hub, agent)));
        let mut pairs = pairs.map(|(hub, agent)| (self.path(hub), self.path(agent)));
        pairs.all(|(hub, agent)| meet(&hub, &agent, [&bundle, &bundle]))
    }

    /// Which authority signs.
    pub(crate) fn signer(&self) -> KeyId {
        key_id(&self.path("ca/ca.crt"))
    }

    /// And which will.
    pub(crate) fn next(&self) -> KeyId {
        key_id(&self.path("ca/next.crt"))
    }

    /// As if the last step had been taken a minute ago: every hub has read it.
    pub(crate) fn settle(&self) {
        let path = self.path("ca/since");
        if let Ok(text) = fs::read_to_string(&path) {
            let since: u64 = text.parse().unwrap();
            fs::write(path, (since - 60).to_string()).unwrap();
        }
    }

    /// The names and contents of all that is in the authority's directory.
    pub(crate) fn files(&self) -> Vec<(String, String)> {
        let mut files: Vec<_> = entries(&self.path("ca"))
            .into_iter()
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    pub(crate) fn copy_authority(&self, to: &Path) {
        copy(&self.path("ca"), to);
    }
}

/// All but the file of that name.
pub(crate) fn cut(files: &[(String, String)], name: &str) -> Vec<(String, String)> {
    let others = files.iter().filter(|(other, _)| other != name);
    others.cloned().collect()
}

/// A Tenant as the API server has it: whether it is connected, and its certificate's authority, whom it trusts, and whether it renews.
pub(crate) fn tenant(
    name: &str,
    connected: bool,
    certificate: Option<(KeyId, &[KeyId], bool)>,
) -> Value {
    let ends = "2099-01-01T00:00:00Z";
    let known = certificate.is_some().then_some("0.1.0");
    let certificate = certificate.map(|(authority, trusts, renews)| {
        let trusts: Vec<String> = trusts.iter().map(ToString::to_string).collect();
        json!({
            "serial": "01", "authority": authority.to_string(), "trusts": trusts, "notAfter": ends, "renews": renews,
        })
    });
    let status = if connected { "True" } else { "False" };
    json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "Tenant",
        "metadata": { "name": name },
        "spec": {},
        "status": {
            "agentVersion": known,
            "certificate": certificate,
            "conditions": [{
                "type": "Connected", "status": status, "reason": "SessionOpen", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    })
}

/// Whether a hub with these files and an agent with those speak with each other; the hub trusts the first bundle, the agent the other.
pub(crate) fn meet(hub: &Path, agent: &Path, [by_hub, by_agent]: [&Path; 2]) -> bool {
    let files = |directory: PathBuf, ca: &Path| TlsFiles {
        cert: directory.join("tls.crt"),
        key: directory.join("tls.key"),
        ca: ca.to_owned(),
    };
    let now = SystemTime::now();
    let server = TlsSource::server(files(hub.join("hub"), by_hub), now).unwrap();
    let client = TlsSource::client(files(agent.join("agent"), by_agent), now).unwrap();
    let acceptor = TlsAcceptor::from(server.current().config.clone());
    let connector = TlsConnector::from(client.current().config.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (one, other) = tokio::io::duplex(64 * 1024);
        let name = server_name("127.0.0.1").unwrap();
        let (accepted, connected) =
            tokio::join!(acceptor.accept(one), connector.connect(name, other));
        accepted.is_ok() && connected.is_ok()
    })
}

fn key_id(path: &Path) -> KeyId {
    let pem = fs::read(path).unwrap();
    let all = certificates_from_pem(path, &pem).unwrap();
    CertificateFacts::from_der(&all[0]).unwrap().key_id.unwrap()
}

fn answer(mut stream: TcpStream, tenants: &Mutex<Vec<Value>>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? > 0 {
        request.extend(byte);
    }
    let (code, body) = match request.starts_with(b"GET /apis/berth.dev/v1alpha1/tenants?") {
        true => {
            let items = tenants.lock().unwrap().clone();
            let list = json!({
                "apiVersion": "berth.dev/v1alpha1", "kind": "TenantList", "metadata": {}, "items": items,
            });
            ("200 OK", list.to_string())
        }
        false => ("404 Not Found", "{}".to_owned()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {code}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in entries(from) {
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(path, to).unwrap();
        }
    }
}
