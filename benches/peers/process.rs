//! What a program and all that it starts use.

use std::{
    collections::HashMap,
    fs,
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// A program in a process group of its own, watched until it ends.
pub struct Watched {
    child: Child,
    usage: Arc<Mutex<Usage>>,
}

#[derive(Default)]
struct Usage {
    /// Resident bytes of all its processes at once, at most. What processes share is counted for each.
    peak: u64,
    /// CPU of each process that was seen, hundredths of a second.
    cpu: HashMap<u32, u64>,
    ended: bool,
}

impl Watched {
    pub fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let usage = Arc::new(Mutex::new(Usage::default()));
        let (group, watched) = (child.id(), usage.clone());
        thread::spawn(move || {
            while !watched.lock().unwrap().ended {
                watched.lock().unwrap().look(group);
                // A look at all processes takes about a millisecond of CPU, from those that are measured.
                thread::sleep(Duration::from_millis(100));
            }
        });
        Ok(Self { child, usage })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// CPU seconds so far.
    pub fn cpu(&self) -> f64 {
        self.usage.lock().unwrap().cpu.values().sum::<u64>() as f64 / 100.0
    }

    /// For a line of figures.
    pub fn summary(&self) -> String {
        format!("{:.1} s of CPU, {} MB at most", self.cpu(), self.usage.lock().unwrap().peak / 1_000_000)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.usage.lock().unwrap().ended = true;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Usage {
    fn look(&mut self, group: u32) {
        let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut resident = 0;
        for process in processes {
            let Some((cpu, memory)) = of(process, group) else { continue };
            self.cpu.insert(process, cpu);
            resident += memory;
        }
        self.peak = self.peak.max(resident);
    }
}

/// CPU in hundredths of a second and resident bytes of a process, if it is of the group.
fn of(process: u32, group: u32) -> Option<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<u64> = stat.rsplit_once(')')?.1.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    (fields.get(1) == Some(&u64::from(group))).then_some(())?;
    Some((fields.get(10)? + fields.get(11)?, fields.get(20)? * 4096))
}
