// One use of what packages/connections has that needs no server, and what a user sees where there is none: every kind in
// one configuration, its JSON Schema, all that is wrong with it at once, and lazy connections that are made and released.
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  Chroma,
  Confluence,
  DynamoDb,
  FileSystem,
  Jira,
  Memcached,
  MongoDb,
  PGlite,
  PgVector,
  Postgres,
  Qdrant,
  S3,
  StorageFormat
} from "@underlay/connections"
import * as S3ByPath from "@underlay/connections/object/S3"
import { Connections, ObjectStore } from "@underlay/core"
import { ConfigError, ConfigProvider, Effect } from "effect"

const kinds = [
  Postgres.kind,
  PGlite.kind,
  PgVector.kind,
  MongoDb.kind,
  DynamoDb.kind,
  Memcached.kind,
  Qdrant.kind,
  Chroma.kind,
  S3.kind,
  FileSystem.kind,
  Jira.kind,
  Confluence.kind
]

const files = Effect.acquireUseRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "underlay-consumer-"))),
  (directory) =>
    Effect.gen(function* () {
      const store = yield* ObjectStore.ObjectStore
      yield* store.put("a/b", "text")
      return yield* store.exists("a/b")
    }).pipe(Effect.provide(FileSystem.layer({ directory }))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
)

const settings = ConfigProvider.fromMap(
  new Map([
    ["connections.orders.kind", "postgres"],
    ["connections.orders.url", "postgres://user:secret@127.0.0.1:1/orders"],
    ["connections.orders.connect", "lazy"],
    ["connections.files.kind", "s3"],
    ["connections.files.region", "eu-central-1"]
  ])
)

export const program = Effect.gen(function* () {
  const stored = yield* files
  const wrong = yield* Effect.flip(Effect.withConfigProvider(Connections.validate(kinds), settings))
  const reason = yield* Effect.gen(function* () {
    const connections = yield* Connections.Connections
    const orders = yield* connections.get(Postgres.kind, "orders")
    const failure = yield* Effect.flip(orders.use((sql) => sql`select 1`))
    return failure._tag === "SqlError" ? "SqlError" : failure.reason
  }).pipe(Effect.scoped, Effect.provide(Connections.layer(kinds)), Effect.withConfigProvider(settings))
  const storage = yield* StorageFormat.fromMarkdown("*hello*")
  return {
    stored,
    missing: ConfigError.isConfigError(wrong),
    described: Object.keys(Connections.jsonSchema(kinds)).length > 0,
    reason,
    storage,
    same: S3ByPath.kind === S3.kind
  }
})

export const expected: Effect.Effect.Success<typeof program> = {
  stored: true,
  missing: true,
  described: true,
  reason: "SqlError",
  storage: "<p><em>hello</em></p>",
  same: true
}
