//! An nginx in front of ClickHouse.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::World;
use super::pooler::{free_port, port_of, program, wait_until_it_listens};

/// The server, ended with its value.
pub struct Nginx {
    command: Command,
    process: Child,
    port: u16,
    dir: PathBuf,
}

impl Nginx {
    /// In front of `upstream`, with these lines in its `server` section; `{upstream}` stands for the address.
    pub fn before(world: &World, upstream: u16, lines: &str) -> Self {
        let port = free_port();
        let dir = std::env::temp_dir().join(format!("pg2ch-nginx-{}-{port}", world.name));
        std::fs::create_dir_all(&dir).unwrap();
        let lines = lines.replace("{upstream}", &format!("http://127.0.0.1:{upstream}"));
        let text = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log;\nevents {{}}\n\
             http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path other;\n\
             uwsgi_temp_path other; scgi_temp_path other;\nserver {{ listen localhost:{port};\n{lines}\n}} }}\n"
        );
        std::fs::write(dir.join("nginx.conf"), text).unwrap();
        let mut command = Command::new(program("NGINX", "/usr/sbin/nginx"));
        let (prefix, log) = (format!("{}/", dir.display()), dir.join("error.log"));
        command.args(["-p", &prefix, "-c", "nginx.conf", "-e"]).arg(log);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        let nginx = Self { command, process, port, dir };
        nginx.wait();
        nginx
    }

    /// Kills it, and starts it again.
    pub fn restart(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.process = self.command.spawn().unwrap();
        self.wait();
    }

    fn wait(&self) {
        let log = || std::fs::read_to_string(self.dir.join("error.log")).unwrap_or_default();
        wait_until_it_listens(self.port, || format!("nginx does not listen: {}", log()));
    }

    /// In front of the world's own ClickHouse.
    pub fn before_clickhouse(world: &World, lines: &str) -> Self {
        Self::before(world, port_of(&world.servers.clickhouse_url), lines)
    }

    /// The configuration's line for it; `path` begins with a slash, or is empty.
    pub fn url(&self, path: &str) -> String {
        format!("url = \"http://app:app@localhost:{}{path}\"", self.port)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
