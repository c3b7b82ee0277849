//! Sessions in PostgreSQL, the superuser's too, and roles that may do less than `app`.

use std::sync::{Mutex, PoisonError};

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
        self.change_roles(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'; {grants}"));
        let url = self.servers.postgres_url.replace("app:app@", &format!("{role}:secret@"));
        self.settings.insert("postgres", format!("url = \"{url}\""));
        role
    }

    /// The configuration uses `app` again, and the role and what it owns are no more.
    pub fn drop_role(&mut self, role: &str) {
        self.settings.remove("postgres");
        self.change_roles(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    }

    /// One test at a time: PostgreSQL refuses two changes at once of one table's privileges ("tuple concurrently updated").
    fn change_roles(&self, sql: &str) {
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        self.superuser().batch_execute(sql).unwrap();
    }
}
