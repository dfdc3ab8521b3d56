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
  someRemoved: counted(() => { blobs.findAndRemove(of({ name: "n700" })); return blobs.count(); }),
};
db.saveDatabase(() => {
  told.clean = db.autosaveDirty();
  blobs.insert({ account: "a", container: "odd", name: "new", snapshot: "" });
  told.resting = db.autosaveDirty();
  setTimeout(() => {
    told.rested = db.autosaveDirty();
    db.saveDatabase(() => {
      blobs.insert({ account: "a", container: "odd", name: "last", snapshot: "" });
      db.close();
      told.kept = JSON.parse(adapter.hashStore.things.value).collections[0].data.length;
      console.log(JSON.stringify(told));
    });
  }, 2000);
});
