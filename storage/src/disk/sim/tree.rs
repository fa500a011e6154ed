//! The files and directories of the simulated disk, each as it is in the cache and as it is on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

use fastrand::Rng;

use super::super::{DirEntry, EntryKind};
use super::{SECTOR_BYTES, SyncLoss};

/// Number of a file or directory, whatever its name.
pub(super) type NodeId = usize;

const ROOT: NodeId = 0;

/// Blocks of so many removed files may be met again; those of older ones were written over.
const REMOVED_FILES_KEPT: usize = 8;

/// All files and directories that ever were; those without a name can still be open.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    File(File),
    Dir(Dir),
}

/// A file: what readers see, and what would be found after a power loss.
#[derive(Debug, Clone, Default)]
pub(super) struct File {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// What was durable once and was cut since, behind what is durable: what the blocks there may still hold.
    blocks: Vec<u8>,
    /// Sectors that differ from the disk and will be written by the next sync.
    dirty: BTreeSet<usize>,
    /// Every length since the last sync: any of them may be found.
    lengths: Vec<usize>,
}

/// A directory: what readers see, and what would be found after a power loss.
#[derive(Debug, Clone, Default)]
pub(super) struct Dir {
    cached: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
    /// Changes since the last sync, in order: any subset of them may be found.
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Put(String, NodeId),
    Remove(String),
    /// A rename within the directory: both ends or neither.
    Move {
        from: String,
        to: String,
        node: NodeId,
    },
}

impl Default for Tree {
    fn default() -> Self {
        Self { nodes: vec![Node::new_dir()] }
    }
}

impl Node {
    pub(super) fn new_file() -> Self {
        Self::File(File::default())
    }

    pub(super) fn new_dir() -> Self {
        Self::Dir(Dir::default())
    }
}

pub(super) fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Tree {
    pub(super) fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut id = ROOT;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            let name = name.to_str().ok_or_else(not_found)?;
            id = *self.dir(id)?.cached.get(name).ok_or_else(not_found)?;
        }
        Ok(id)
    }

    pub(super) fn file(&self, id: NodeId) -> io::Result<&File> {
        match &self.nodes[id] {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn file_mut(&mut self, id: NodeId) -> io::Result<&mut File> {
        match &mut self.nodes[id] {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn create(&mut self, path: &Path, node: Node) -> io::Result<NodeId> {
        let (parent, name) = self.parent_of(path)?;
        let id = self.nodes.len();
        let dir = self.dir_mut(parent)?;
        if dir.cached.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        dir.apply(Change::Put(name, id));
        self.nodes.push(node);
        Ok(id)
    }

    pub(super) fn unlink(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        let (parent, name) = self.parent_of(path)?;
        self.dir_mut(parent)?.apply(Change::Remove(name));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?;
        let (from_dir, from) = self.parent_of(from)?;
        if let Ok(replaced) = self.find(to)
            && let Node::Dir(dir) = &self.nodes[replaced]
            && !dir.cached.is_empty()
        {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (to_dir, to) = self.parent_of(to)?;
        if from_dir == to_dir {
            self.dir_mut(from_dir)?.apply(Change::Move { from, to, node });
        } else {
            self.dir_mut(to_dir)?.apply(Change::Put(to, node));
            self.dir_mut(from_dir)?.apply(Change::Remove(from));
        }
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let entry = |(name, id): (&String, &NodeId)| DirEntry {
            name: name.clone(),
            kind: match &self.nodes[*id] {
                Node::File(file) => EntryKind::File { bytes: file.len() },
                Node::Dir(_) => EntryKind::Directory,
            },
        };
        Ok(self.dir(self.find(path)?)?.cached.iter().map(entry).collect())
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let id = self.find(path)?;
        let dir = self.dir_mut(id)?;
        dir.durable = dir.cached.clone();
        dir.pending.clear();
        Ok(())
    }

    /// Bytes in files that have a name.
    pub(super) fn used_bytes(&self) -> u64 {
        let named = |node: &Node| match node {
            Node::Dir(dir) => dir.cached.values().copied().collect(),
            Node::File(_) => Vec::new(),
        };
        let files = self.nodes.iter().flat_map(named).filter_map(|id| self.file(id).ok());
        files.map(File::len).sum()
    }

    pub(super) fn after_power_loss(&self, rng: &mut Rng) -> Self {
        let all_removed = self.removed_files();
        let (forgotten, removed) = all_removed.split_at(all_removed.len().saturating_sub(REMOVED_FILES_KEPT));
        let is_forgotten = |file: &File| forgotten.iter().any(|gone| std::ptr::eq(*gone, file));
        let nodes = self.nodes.iter().map(|node| match node {
            Node::File(file) if is_forgotten(file) => Node::new_file(),
            Node::File(file) => Node::File(file.after_power_loss(removed, rng)),
            Node::Dir(dir) => Node::Dir(dir.after_power_loss(rng)),
        });
        Self { nodes: nodes.collect() }
    }

    /// Files without a name, and that cannot get one back by a power loss, whose blocks may belong to others now.
    fn removed_files(&self) -> Vec<&File> {
        let mut is_named = vec![false; self.nodes.len()];
        for node in &self.nodes {
            if let Node::Dir(dir) = node {
                let pending = dir.pending.iter().filter_map(Change::node);
                let nodes = dir.cached.values().chain(dir.durable.values()).copied().chain(pending);
                nodes.for_each(|id| is_named[id] = true);
            }
        }
        let removed = self.nodes.iter().zip(is_named).filter(|(_, is_named)| !is_named);
        let files = removed.filter_map(|(node, _)| if let Node::File(file) = node { Some(file) } else { None });
        files.filter(|file| !file.blocks.is_empty()).collect()
    }

    fn dir(&self, id: NodeId) -> io::Result<&Dir> {
        match &self.nodes[id] {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn dir_mut(&mut self, id: NodeId) -> io::Result<&mut Dir> {
        match &mut self.nodes[id] {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn parent_of(&self, path: &Path) -> io::Result<(NodeId, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(not_found)?;
        let parent = self.find(path.parent().ok_or_else(not_found)?)?;
        Ok((parent, name.to_owned()))
    }
}

impl Dir {
    fn apply(&mut self, change: Change) {
        change.apply(&mut self.cached);
        self.pending.push(change);
    }

    fn after_power_loss(&self, rng: &mut Rng) -> Self {
        let mut entries = self.durable.clone();
        for change in &self.pending {
            if rng.bool() {
                change.apply(&mut entries);
            }
        }
        Self { cached: entries.clone(), durable: entries, pending: Vec::new() }
    }
}

impl Change {
    /// What gets a name by it.
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Put(_, node) | Self::Move { node, .. } => Some(*node),
            Self::Remove(_) => None,
        }
    }

    fn apply(&self, entries: &mut BTreeMap<String, NodeId>) {
        match self {
            Self::Put(name, node) => drop(entries.insert(name.clone(), *node)),
            Self::Remove(name) => drop(entries.remove(name)),
            Self::Move { from, to, node } => {
                entries.remove(from);
                entries.insert(to.clone(), *node);
            }
        }
    }
}

impl File {
    pub(super) fn len(&self) -> u64 {
        self.cached.len() as u64
    }

    pub(super) fn read(&self, position: u64, bytes: usize) -> Vec<u8> {
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(self.cached.len());
        let end = start.saturating_add(bytes).min(self.cached.len());
        self.cached[start..end].to_vec()
    }

    pub(super) fn write(&mut self, position: u64, bytes: &[u8]) {
        let start = usize::try_from(position).unwrap_or(usize::MAX);
        let end = start + bytes.len();
        if end > self.cached.len() {
            self.set_len(end);
        }
        self.cached[start..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            self.dirty.extend(start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
        }
    }

    pub(super) fn truncate(&mut self, bytes: u64) {
        self.set_len(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    pub(super) fn sync(&mut self) {
        let mut durable = std::mem::take(&mut self.durable);
        durable.resize(self.cached.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(&self.cached, &mut durable, sector);
        }
        if self.blocks.len() < durable.len() {
            self.blocks.resize(durable.len(), 0);
        }
        self.blocks[..durable.len()].copy_from_slice(&durable);
        self.durable = durable;
        self.lengths.clear();
    }

    pub(super) fn fail_sync(&mut self, loss: SyncLoss) {
        let lost = std::mem::take(&mut self.dirty);
        match loss {
            SyncLoss::CachedOnly => {}
            SyncLoss::Dropped => {
                let mut durable = self.durable.clone();
                durable.resize(self.cached.len(), 0);
                lost.into_iter().for_each(|sector| copy_sector(&durable, &mut self.cached, sector));
            }
        }
    }

    pub(super) fn replace(&mut self, content: &[u8]) {
        let blocks = content.to_vec();
        *self = Self { cached: content.to_vec(), durable: content.to_vec(), blocks, ..Self::default() };
    }

    fn set_len(&mut self, len: usize) {
        self.lengths.push(self.cached.len());
        let kept = self.cached.len().min(len);
        self.cached.resize(len, 0);
        if kept < len && kept < self.durable.len() {
            // Zeros over what the disk still holds.
            self.dirty.extend(kept / SECTOR_BYTES..=(len - 1) / SECTOR_BYTES);
        }
    }

    fn after_power_loss(&self, removed: &[&Self], rng: &mut Rng) -> Self {
        let mut lengths = self.lengths.clone();
        lengths.push(self.cached.len());
        lengths.push(self.durable.len());
        let len = lengths[rng.usize(..lengths.len())];
        let mut content = self.durable.clone();
        let longest = content.len().max(self.cached.len()).max(len);
        content.resize(longest, 0);
        self.show_old_blocks(&mut content, removed, rng);
        for sector in &self.dirty {
            if rng.bool() {
                copy_sector(&self.cached, &mut content, *sector);
                if rng.u32(..8) == 0 {
                    // Torn: the rest of the sector is as it was.
                    let torn_at = sector * SECTOR_BYTES + rng.usize(..SECTOR_BYTES);
                    let end = ((sector + 1) * SECTOR_BYTES).min(content.len());
                    let old = self.durable.iter().copied().chain(std::iter::repeat(0));
                    for (byte, old) in content.iter_mut().zip(old).take(end).skip(torn_at) {
                        *byte = old;
                    }
                }
            }
        }
        content.truncate(len);
        let mut blocks = self.blocks.clone();
        blocks.resize(blocks.len().max(content.len()), 0);
        blocks[..content.len()].copy_from_slice(&content);
        Self { cached: content.clone(), durable: content, blocks, ..Self::default() }
    }

    /// Behind what is durable, some sectors hold what was there in another life.
    fn show_old_blocks(&self, content: &mut [u8], removed: &[&Self], rng: &mut Rng) {
        let (old, behind) = match rng.u32(..8) {
            0..2 => (&self.blocks, 0),
            2 if !removed.is_empty() => (&removed[rng.usize(..removed.len())].blocks, 0),
            3 if !removed.is_empty() => {
                let old = &removed[rng.usize(..removed.len())].blocks;
                (old, rng.usize(..=old.len() / SECTOR_BYTES))
            }
            _ => return,
        };
        let first = self.durable.len().div_ceil(SECTOR_BYTES);
        for sector in first..content.len().div_ceil(SECTOR_BYTES) {
            let from = (sector + behind) * SECTOR_BYTES;
            if from < old.len() && rng.u32(..4) > 0 {
                let bytes = SECTOR_BYTES.min(old.len() - from).min(content.len() - sector * SECTOR_BYTES);
                content[sector * SECTOR_BYTES..][..bytes].copy_from_slice(&old[from..from + bytes]);
            }
        }
    }
}

/// Copies the part of a sector that both have.
fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let start = sector * SECTOR_BYTES;
    let end = (start + SECTOR_BYTES).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_loss_keeps_what_was_synced_and_any_part_of_the_rest() {
        let mut file = File::default();
        file.write(0, &[1; 2 * SECTOR_BYTES]);
        file.sync();
        file.write(SECTOR_BYTES as u64, &[2; 2 * SECTOR_BYTES]);
        let mut found = BTreeSet::new();
        for seed in 0..100 {
            let after = file.after_power_loss(&[], &mut Rng::with_seed(seed));
            assert_eq!(after.read(0, SECTOR_BYTES), [1; SECTOR_BYTES]);
            let second = after.read(SECTOR_BYTES as u64, 1)[0];
            let third = after.read(2 * SECTOR_BYTES as u64, 1).first().copied();
            found.insert((second, third));
        }
        let all = [(1, None), (1, Some(0)), (1, Some(2)), (2, None), (2, Some(0)), (2, Some(2))];
        assert_eq!(found, BTreeSet::from(all));
    }

    #[test]
    fn after_a_failed_sync_the_next_one_succeeds_without_the_data() {
        for (loss, read_before_power_loss) in [(SyncLoss::Dropped, 1), (SyncLoss::CachedOnly, 2)] {
            let mut file = File::default();
            file.write(0, &[1; 10]);
            file.sync();
            file.write(0, &[2; 10]);
            file.fail_sync(loss);
            file.sync();
            assert_eq!(file.read(0, 1), [read_before_power_loss], "{loss:?}");
            assert_eq!(file.after_power_loss(&[], &mut Rng::with_seed(0)).read(0, 1), [1], "{loss:?}");
        }
    }

    #[test]
    fn a_sector_that_a_file_has_by_its_length_alone_may_show_the_bytes_of_a_removed_file() {
        let mut tree = Tree::default();
        let (old, new) = (Path::new("/old"), Path::new("/new"));
        let id = tree.create(old, Node::new_file()).expect("create");
        tree.file_mut(id).expect("file").write(0, &[7; SECTOR_BYTES]);
        tree.file_mut(id).expect("file").sync();
        tree.unlink(old).expect("unlink");
        tree.sync_dir(Path::new("/")).expect("sync");
        let id = tree.create(new, Node::new_file()).expect("create");
        tree.file_mut(id).expect("file").write(0, &[1; SECTOR_BYTES]);
        let first = |seed| {
            let after = tree.after_power_loss(&mut Rng::with_seed(seed));
            after.file(id).expect("file").read(0, 1).first().copied()
        };
        let found: BTreeSet<Option<u8>> = (0..200).map(first).collect();
        assert_eq!(found, BTreeSet::from([None, Some(0), Some(1), Some(7)]));
        tree.file_mut(id).expect("file").sync();
        let found: BTreeSet<Option<u8>> = (0..200)
            .map(|seed| {
                tree.after_power_loss(&mut Rng::with_seed(seed)).file(id).expect("file").read(0, 1).first().copied()
            })
            .collect();
        assert_eq!(found, BTreeSet::from([Some(1)]), "never once it was synced");
    }

    #[test]
    fn directory_changes_are_lost_one_by_one_until_the_directory_is_synced() {
        let mut tree = Tree::default();
        let (a, b) = (Path::new("/a"), Path::new("/b"));
        tree.create(a, Node::new_file()).expect("create");
        tree.create(b, Node::new_file()).expect("create");
        let names = |tree: &Tree| tree.list(Path::new("/")).expect("list").len();
        let seen: BTreeSet<usize> =
            (0..50).map(|seed| names(&tree.after_power_loss(&mut Rng::with_seed(seed)))).collect();
        assert_eq!(seen, BTreeSet::from([0, 1, 2]));
        tree.sync_dir(Path::new("/")).expect("sync");
        assert_eq!(names(&tree.after_power_loss(&mut Rng::with_seed(1))), 2);
    }
}
