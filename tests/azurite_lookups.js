// What LokiJS does under laptop/azurite/lookups.js, told as JSON: see tests/test_azurite_lookups.py.
"use strict";

const Loki = require("lokijs");

const THINGS = Number(process.argv[2]);
const count = { comparisons: 0, rebuilds: 0 };
const { $eq } = Loki.LokiOps;
Loki.LokiOps.$eq = (a, b) => { count.comparisons += 1; return $eq(a, b); };
const { ensureIndex } = Loki.Collection.prototype;
Loki.Collection.prototype.ensureIndex = function (...all) {
  count.rebuilds += 1;
  return ensureIndex.apply(this, all);
};

const adapter = new Loki.LokiMemoryAdapter();
const db = new Loki("things", { adapter, autosave: true, autosaveInterval: 1e6 });
const blobs = db.addCollection("blobs", { indices: ["account", "container", "name", "snapshot"] });
for (let n = 0; n < THINGS; n++) {
  blobs.insert({ account: "a", container: n % 2 ? "odd" : "even", name: `n${n >> 1}`, snapshot: "", n });
}
const counted = (work) => { count.comparisons = count.rebuilds = 0; return { value: work(), ...count }; };
const of = (more) => ({ account: "a", container: "odd", ...more });
const told = {
  found: counted(() => blobs.findOne(of({ name: "n700", snapshot: "" })).n),
  absent: counted(() => blobs.findOne(of({ name: "n9999", snapshot: "" }))),
  ofOtherContainer: counted(() => blobs.findOne({ account: "a", container: "none", name: "n700" })),
  chained: counted(() => blobs.chain().find(of({ name: "n700" })).data().map((each) => each.n)),
  operators: blobs.find(of({ name: { $gt: "n98" } })).length,
  all: [blobs.find().length, blobs.find({}).length],
  nothingRemoved: counted(() => blobs.remove([])),
  noneRemoved: counted(() => blobs.findAndRemove(of({ name: "n700", snapshot: { $gt: "" } }))),
  oneRemoved: counted(() => { blobs.findAndRemove(of({ name: "n700" })); return blobs.findOne(of({ name: "n700" })); }),
  fewRemoved: counted(() => { blobs.remove(blobs.find({ name: "n800" })); return blobs.find({ name: "n800" }).length; }),
  manyRemoved: counted(() => { blobs.findAndRemove({ n: { $lt: 20 } }); return blobs.find({ name: "n9" }).length; }),
  left: [blobs.count(), blobs.find(of({})).length, blobs.findOne(of({ name: "n801" })).n],
};

const messages = db.addCollection("messages", { indices: ["queue", "visibleTime"] });
const { $lte } = Loki.LokiOps;
Loki.LokiOps.$lte = (a, b) => { count.comparisons += 1; return $lte(a, b); };
for (let n = 0; n < THINGS; n++) messages.insert({ queue: "q", timeNextVisible: n % 10, expirationTime: 100 + n, n });
const due = (name, moment) => messages.find({ queue: "q", [name]: { $lte: moment } });
told.expired = [99, 100, 102].map((moment) => counted(() => due("expirationTime", moment).map((each) => each.n)));
told.visible = [-1, 0, 9].map((moment) => due("timeNextVisible", moment).length);
const taken = due("timeNextVisible", 0).slice(0, 16);
for (const each of taken) each.timeNextVisible = 50;
messages.update(taken);
told.visibleAfter = [0, 9, 50].map((moment) => due("timeNextVisible", moment).length);

// Writing takes ten seconds, by a clock of our own.
let clock = 0;
performance.now = () => clock;
blobs.insert({ account: "a", container: "odd", name: "slow", snapshot: "", toJSON() { clock += 10_000; return {}; } });
const writtenAt = (moment) => { clock = moment; return db.autosaveDirty(); };
db.saveDatabase(() => {
  told.clean = writtenAt(1e9);
  blobs.insert({ account: "a", container: "odd", name: "new", snapshot: "" });
  told.again = [10_000, 499_000, 501_000].map(writtenAt);
  clock = 10_000;
  db.close();
  told.kept = JSON.parse(adapter.hashStore.things.value).collections[0].data.length;
  console.log(JSON.stringify(told));
});
