// Loaded into Azurite before it starts (node --require).
//
// Azurite finds a row of a table by its PartitionKey, and then reads through all rows of that partition for
// the RowKey. Azure finds a row at once, however many there are. So does Azurite where it is asked for the
// RowKey first, since both have an index and only the first condition uses its own: the same row, found
// without reading the others.
"use strict";

const { dirname } = require("node:path");

const Loki = require(require.resolve("lokijs", { paths: [dirname(process.argv[1])] }));
const { findOne } = Loki.Collection.prototype;

Loki.Collection.prototype.findOne = function (query) {
  const { PartitionKey, RowKey, ...others } = query ?? {};
  const keys = typeof PartitionKey === "string" && typeof RowKey === "string";
  return findOne.call(this, keys && Object.keys(others).length === 0 ? { RowKey, PartitionKey } : query);
};
