/**
 * What connections cost beside the bare drivers and the official clients. Entry `connections`; by itself, all areas or
 * those named:
 *
 *     node --import ./src/published.mjs src/connections/main.ts postgres
 */
import { Effect } from "effect"
import { machine } from "../Harness.ts"
import * as Load from "../redis/Load.ts"
import * as DynamoDb from "./dynamodb.ts"
import * as Imports from "./imports.ts"
import * as Memcached from "./memcached.ts"
import * as MongoDb from "./mongodb.ts"
import type { Comparing } from "./place.ts"
import * as Postgres from "./postgres.ts"
import * as S3 from "./s3.ts"
import * as Vector from "./vector.ts"

const areas: Readonly<Record<string, Comparing>> = {
  postgres: Postgres.comparing,
  mongodb: MongoDb.comparing,
  dynamodb: DynamoDb.comparing,
  memcached: Memcached.comparing,
  vector: Vector.comparing,
  s3: S3.comparing,
  imports: Imports.comparing
}

const wanted = process.argv.slice(2)
const unknown = wanted.filter((name) => !(name in areas))
if (unknown.length > 0) {
  console.error(`No such area: ${unknown.join(", ")}. There are: ${Object.keys(areas).join(", ")}.`)
  process.exit(1)
}

const host = machine()
for (const [name, comparing] of Object.entries(areas)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  const results = await Effect.runPromise(Effect.scoped(comparing))
  Load.keepAll(`connections-${name}`, results, {}, host)
}
process.exit(0)
