// Loaded into Azurite before it starts (node --require).
//
// Azurite keeps blobs, messages and rows in LokiJS. Some of its habits cost time that grows with all that is
// kept, where Azure's does not. What is found, removed and written is the same here, without that.
"use strict";

const { dirname } = require("node:path");

const Loki = require(require.resolve("lokijs", { paths: [dirname(process.argv[1])] }));
const { addCollection, autosaveDirty, serialize } = Loki.prototype;
const { find } = Loki.Resultset.prototype;
const { removeBatch, removeBatchByPositions } = Loki.Collection.prototype;

// One thing is looked for by several conditions: a blob by its account, its container and its name, a message
// by its queue and its id, a row by its partition and its key. Only the first condition uses its index, and
// then everything that meets it is read through. So that one comes first which the fewest things meet.
Loki.Resultset.prototype.find = function (query, firstOnly) {
  const isFirst = !this.filterInitialized && query !== null && typeof query === "object";
  return find.call(this, isFirst ? narrowestFirst(this.collection, query) : query, firstOnly);
};

function narrowestFirst(collection, query) {
  let narrowest;
  let fewest = Infinity;
  for (const [name, value] of Object.entries(query)) {
    if (!collection.binaryIndices[name]) continue;
    const [operator, operand] = typeof value === "string" ? ["$eq", value] : ["$lte", value?.$lte];
    if (operand === undefined) continue;
    const [first, last] = collection.calculateRange(operator, name, operand);
    if (last - first < fewest) [narrowest, fewest] = [name, last - first];
  }
  return narrowest === undefined ? query : { [narrowest]: query[narrowest], ...query };
}

// Messages are looked for by when they are visible and when they expire, and have an index by neither: the one
// that is meant for it names a property that they do not have.
Loki.prototype.addCollection = function (name, options) {
  const indices = options?.indices ?? [];
  const more = indices.includes("visibleTime") ? ["timeNextVisible", "expirationTime"] : [];
  return addCollection.call(this, name, { ...options, indices: [...indices, ...more] });
};

// Whenever a message is taken, those that have expired are removed, and a blob is removed with its snapshots. To
// remove many at a time, all indexes are made anew: also where those many are none, or one of sixty thousand.
const MANY = 10;

Loki.Collection.prototype.removeBatch = function (batch) {
  if (batch.length >= MANY) return removeBatch.call(this, batch);
  for (const each of [...batch]) this.remove(each);
};

Loki.Collection.prototype.removeBatchByPositions = function (positions) {
  if (positions.length >= MANY) return removeBatchByPositions.call(this, positions);
  for (const each of positions.map((position) => this.data[position])) this.remove(each);
};

// Every five seconds everything is written to disk if anything has changed. Here that takes a fiftieth of the
// time at most: the longer it took, the later is the next time. At its end Azurite writes in any case.
const REST_OF_THE_TIME = 49;
const restUntil = new WeakMap();

Loki.prototype.serialize = function (options) {
  const began = performance.now();
  const text = serialize.call(this, options);
  const ended = performance.now();
  restUntil.set(this, ended + REST_OF_THE_TIME * (ended - began));
  return text;
};

Loki.prototype.autosaveDirty = function () {
  const rests = this.autosaveHandle && performance.now() < restUntil.get(this);
  return !rests && autosaveDirty.call(this);
};
