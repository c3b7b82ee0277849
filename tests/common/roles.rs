//! Sessions in PostgreSQL, the superuser's too, and roles that may do less than `app`.

use postgres::{Client, NoTls};

use super::World;
use super::servers::Servers;

impl Servers {
    /// An application's session in the database that the tables are in.
    pub fn session(&self) -> Client {
        Client::connect(&self.postgres_url, NoTls).unwrap()
    }

    /// The superuser's session in the database that the tables are in.
    pub fn superuser(&self) -> Client {
        let url = self.postgres_url.replace("app:app@", "postgres:postgres@");
        Client::connect(&url, NoTls).unwrap()
    }
}

impl World {
    /// The superuser's session in the world's database.
    pub fn superuser(&self) -> Client {
        self.servers.superuser()
    }

    /// A role that may do what `grants` (statements; `{t}` and `{role}` stand for the table and the role) allow it. The world's
    /// configuration uses it from now on.
    pub fn become_role(&mut self, grants: &str) -> String {
        let role = format!("{}_role", self.name);
        let grants = grants.replace("{t}", &self.name).replace("{role}", &role);
        self.superuser().batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'; {grants}")).unwrap();
        let url = self.servers.postgres_url.replace("app:app@", &format!("{role}:secret@"));
        self.settings.insert("postgres", format!("url = \"{url}\""));
        role
    }

    /// The configuration uses `app` again, and the role and what it owns are no more.
    pub fn drop_role(&mut self, role: &str) {
        self.settings.remove("postgres");
        self.superuser().batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).unwrap();
    }
}
