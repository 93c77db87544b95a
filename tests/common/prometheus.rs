//! Prometheus and promtool, as scripts/test.sh gets them or as they are installed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::Running;
use super::listening::http;

/// The program of that name; says why there is none.
pub fn program(name: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("prometheus/usr/bin")
        .join(name);
    let found = [own, PathBuf::from(name)].into_iter().find(|program| {
        let mut command = Command::new(program);
        let version = command.arg("--version").stdin(Stdio::null()).output();
        version.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        eprintln!(
            "skipped: there is no {name}, which scripts/test.sh gets from Debian's package prometheus"
        );
    }
    found
}

/// A Prometheus that scrapes every other second and evaluates rules every second.
pub struct Prometheus {
    dir: TempDir,
    _child: Running,
    address: SocketAddr,
}

impl Prometheus {
    /// Scrapes `targets` as the job vxtap, with the rules in `rules`. `None` where it is not installed.
    pub fn start(targets: &[SocketAddr], rules: &str) -> Option<Self> {
        let program = program("prometheus")?;
        let dir = tempfile::tempdir().unwrap();
        let address = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap()
        };
        let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        let configuration = format!(
            "global: {{scrape_interval: 2s, evaluation_interval: 1s, scrape_timeout: 2s}}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n  - job_name: vxtap\n    static_configs:\n      - targets: [{}]\n",
            targets.join(", ")
        );
        std::fs::write(dir.path().join("prometheus.yml"), configuration).unwrap();
        std::fs::write(dir.path().join("rules.yml"), rules).unwrap();
        let mut command = Command::new(program);
        command
            .current_dir(dir.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap());
        let child = Running::start(&mut command);
        let begun = Instant::now();
        let ready = || {
            let asked = std::net::TcpStream::connect(address);
            asked.is_ok() && http(address, "GET /-/ready HTTP/1.0\r\n\r\n").0 == 200
        };
        while !ready() {
            let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "it does not begin: {log}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(Self {
            dir,
            _child: child,
            address,
        })
    }

    fn get(&self, path: &str) -> Value {
        let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
        let (code, _, body) = http(self.address, &request);
        let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap();
        assert_eq!(code, 200, "{path}: {body}: {}", log());
        serde_json::from_str(&body).unwrap()
    }

    /// The series that a query gives, with their values.
    pub fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = self.get(&format!("/api/v1/query?query={encoded}"));
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"]["result"].as_array().unwrap().iter();
        series
            .map(|series| {
                let value = series["value"][1].as_str().unwrap();
                (series["metric"].clone(), value.parse().unwrap())
            })
            .collect()
    }

    /// The alerts that fire, each with the instance that it is of and its value.
    pub fn firing(&self) -> Vec<(String, String, f64)> {
        let answer = self.get("/api/v1/alerts");
        let alerts = answer["data"]["alerts"].as_array().unwrap().iter();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        let label = |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap().to_owned();
        let value = |alert: &Value| alert["value"].as_str().unwrap().parse().unwrap();
        firing
            .map(|alert| {
                let (name, instance) = (label(alert, "alertname"), label(alert, "instance"));
                (name, instance, value(alert))
            })
            .collect()
    }
}
