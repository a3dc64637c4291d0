/**
 * One configuration with all kinds: it starts a program that uses each, what is missing or wrong in it is said at once,
 * and its JSON Schema knows it.
 */
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Confluence from "@underlay/connections/atlassian/Confluence"
import * as Jira from "@underlay/connections/atlassian/Jira"
import * as Memcached from "@underlay/connections/cache/Memcached"
import * as DynamoDb from "@underlay/connections/database/DynamoDb"
import * as MongoDb from "@underlay/connections/database/MongoDb"
import * as PGlite from "@underlay/connections/database/PGlite"
import * as Postgres from "@underlay/connections/database/Postgres"
import * as FileSystem from "@underlay/connections/object/FileSystem"
import * as S3 from "@underlay/connections/object/S3"
import * as Chroma from "@underlay/connections/vector/Chroma"
import * as PgVector from "@underlay/connections/vector/PgVector"
import * as Qdrant from "@underlay/connections/vector/Qdrant"
import * as Connections from "@underlay/core/connection/Connections"
import * as ChromaServer from "@underlay/servers/ChromaServer"
import * as DynaliteServer from "@underlay/servers/DynaliteServer"
import * as FauxqsServer from "@underlay/servers/FauxqsServer"
import * as MemcachedServer from "@underlay/servers/MemcachedServer"
import * as MongoWireServer from "@underlay/servers/MongoWireServer"
import * as Need from "@underlay/servers/Need"
import * as PgVectorServer from "@underlay/servers/PgVectorServer"
import { Ajv } from "ajv"
import { ConfigProvider, Effect, Layer, Option } from "effect"
import * as ConfluenceDouble from "./atlassian/ConfluenceDouble.ts"
import * as JiraDouble from "./atlassian/JiraDouble.ts"
import { kindsOver } from "./kinds.ts"
import * as QdrantDouble from "./vector/QdrantDouble.ts"

const all = [
  ...kindsOver({ connect: "lazy", healthTimeout: "1 second", secure: false }).map(({ kind }) => kind),
  PGlite.kind,
  FileSystem.kind
]

const wrong = {
  connections: {
    orders: { kind: "postgres", url: "hush-1", maxConnections: 0, connectTimeout: "hush-2" },
    vectors: { kind: "pgvector", port: "hush-3" },
    documents: { kind: "mongodb", maxConnections: "hush-4" },
    items: { kind: "dynamodb", endpoint: "hush-5", retries: -1 },
    files: { kind: "s3", addressing: "hush-6" },
    memcached: { maxPending: "hush-7" },
    qdrant: { plane: "hush-8" },
    tickets: { kind: "jira", timeout: "hush-9" },
    pglite: { connect: "hush-10" },
    pages: { kind: "confluence", plane: "hush-11" },
    folder: { kind: "filesystem", durable: "hush-12" },
    chromadb: { url: "hush-13", plane: "hush-14" },
    nameless: {}
  }
}

describe("one configuration with all kinds", () => {
  it.effect("every missing and wrong field of every kind is reported at once, and no value", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(
        Effect.withConfigProvider(Connections.validate(all), ConfigProvider.fromJson(wrong))
      )
      const problems = Connections.problems(error)
      const paths = problems.map(({ path }) => path)
      for (const path of [
        "orders.maxConnections",
        "orders.connectTimeout",
        "vectors.port",
        "documents.url",
        "documents.maxConnections",
        "items.endpoint",
        "items.retries",
        "files.bucket",
        "files.addressing",
        "memcached.maxPending",
        "qdrant.url",
        "qdrant.plane",
        "tickets.token",
        "tickets.timeout",
        "pglite.connect",
        "pages.token",
        "pages.plane",
        "folder.directory",
        "folder.durable",
        "chromadb.plane"
      ]) {
        assert.include(paths, `connections.${path}`)
      }
      assert.notInclude(JSON.stringify(problems), "hush")
    })
  )

  it("its JSON Schema accepts what is right and refuses what is wrong", () => {
    const check = new Ajv({ strict: false, allErrors: true }).compile(Connections.jsonSchema(all))
    const right: { readonly connections: Record<string, object> } = {
      connections: {
        ...Object.fromEntries(
          kindsOver({ connect: "lazy", healthTimeout: "1 second", secure: false }).map(({ kind, settings }) => [
            `my-${kind.kind}`,
            { kind: kind.kind, ...settings(1234) }
          ])
        ),
        pglite: {},
        filesystem: { directory: "/data" },
        postgres: { url: "postgres://host/one", maxConnections: 3 }
      }
    }
    // In a file a flag is a flag and a list is a list.
    Object.assign(right.connections["my-memcached"] ?? {}, { tls: false, servers: ["127.0.0.1:1"] })
    for (const name of ["my-jira", "my-confluence"]) {
      Object.assign(right.connections[name] ?? {}, { allowInsecureLoopback: true })
    }
    assert.isTrue(check(right), JSON.stringify(check.errors?.slice(0, 3)))
    for (const [name, settings] of Object.entries(wrong.connections)) {
      assert.isFalse(check({ connections: { [name]: settings } }), name)
    }
  })

  describe.skipIf(Need.missing("pgvector") || Need.missing("memcached") || Need.missing("openapi"))(
    Need.title("starts a program", "pgvector"),
    () => {
      it.live(
        Need.missing("chroma") ? "that uses each but Chroma [needs chroma]" : "that uses each",
        () =>
          Effect.gen(function* () {
            const postgres = yield* PgVectorServer.make()
            const mongo = yield* MongoWireServer.make()
            const dynamo = yield* DynaliteServer.make()
            const s3 = yield* FauxqsServer.make
            const memcached = yield* MemcachedServer.make()
            const jira = yield* JiraDouble.start(1)
            const confluence = yield* ConfluenceDouble.start(1)
            const chroma = Need.missing("chroma") ? undefined : yield* ChromaServer.make
            const directory = yield* Effect.acquireRelease(
              Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "underlay-configuration-"))),
              (folder) => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true }))
            )
            const qdrant = yield* Effect.acquireRelease(
              Effect.promise(() =>
                QdrantDouble.make({ openapi: Path.join(Need.sharedData, "openapi", "qdrant.json") })
              ),
              (double) => Effect.promise(() => double.close())
            )
            const aws = { region: "us-east-1", accessKeyId: "test", secretAccessKey: "test" }
            const atlassian = { email: "somebody@example.com", token: "secret", allowInsecureLoopback: "true" }
            const configuration = {
              connections: {
                postgres: {
                  orders: { url: postgres.url },
                  billing: { url: postgres.url, maxConnections: "2", plane: "internal" }
                },
                vectors: { kind: "pgvector", url: postgres.url },
                embedded: { kind: "pglite", vector: "false" },
                documents: { kind: "mongodb", url: `${mongo.url}` },
                items: { kind: "dynamodb", endpoint: dynamo.endpoint, ...aws },
                files: { kind: "s3", endpoint: s3.endpoint, bucket: "files", createBucket: "true", ...aws },
                memcached: { servers: memcached.address },
                points: { kind: "qdrant", url: qdrant.url },
                ...(chroma === undefined ? {} : { chromadb: { url: chroma.url } }),
                folder: { kind: "filesystem", directory },
                tickets: { kind: "jira", url: jira.origin, ...atlassian },
                pages: { kind: "confluence", url: confluence.origin, ...atlassian }
              }
            }
            for (const { allowed } of [jira, confluence]) {
              allowed.add(`Basic ${Buffer.from("somebody@example.com:secret").toString("base64")}`)
            }
            const count = Object.keys(configuration.connections).length + 1
            yield* Effect.gen(function* () {
              const registry = yield* Connections.Connections
              const declared = yield* Effect.withConfigProvider(
                Connections.declared(all),
                ConfigProvider.fromJson(configuration)
              )
              assert.strictEqual(declared.length, count)
              assert.strictEqual(new Set(declared.map(({ kind }) => kind)).size, chroma === undefined ? 11 : 12)
              for (const { kind, name } of declared) yield* registry.open(kind, name)
              for (const { details, kind, name, status } of yield* registry.health) {
                assert.strictEqual(status, "up", `${kind}.${name}: ${JSON.stringify(details)}`)
              }

              for (const name of ["orders", "billing"]) {
                const sql = yield* registry.get(Postgres.kind, name)
                assert.deepStrictEqual(yield* sql.use((sql) => sql`select 1 as one`), [{ one: 1 }])
              }
              const embedded = yield* registry.get(PGlite.kind, "embedded")
              assert.deepStrictEqual(yield* embedded.use((sql) => sql`select 2 as two`), [{ two: 2 }])
              for (const connection of [
                yield* registry.get(PgVector.kind, "vectors"),
                yield* registry.get(Qdrant.kind, "points"),
                ...(chroma === undefined ? [] : [yield* registry.get(Chroma.kind)])
              ]) {
                yield* connection.use((store) => store.ensureCollection("notes", { dimensions: 2, metric: "cosine" }))
              }
              const documents = yield* registry.get(MongoDb.kind, "documents")
              const found = yield* documents.use((database) => {
                const notes = database.collection("notes")
                return Effect.zipRight(notes.insertOne({ text: "b" }), notes.findOne({ text: "b" }))
              })
              assert.isTrue(Option.isOption(found) ? Option.isSome(found) : found !== null)
              const items = yield* registry.get(DynamoDb.kind, "items")
              assert.isArray((yield* items.use((dynamo) => dynamo.request("ListTables", {})))["TableNames"])
              const files = yield* registry.get(S3.kind, "files")
              yield* files.use((store) => store.put("a.txt", new TextEncoder().encode("text")))
              const folder = yield* registry.get(FileSystem.kind, "folder")
              yield* folder.use((store) => store.put("a.txt", new TextEncoder().encode("text")))
              const cache = yield* registry.get(Memcached.kind)
              assert.isTrue(yield* cache.use((memcached) => memcached.add("key", "value")))
              const tickets = yield* registry.get(Jira.kind, "tickets")
              assert.strictEqual((yield* tickets.use((jira) => jira.getIssue("DEMO-1"))).key, "DEMO-1")
              const pages = yield* registry.get(Confluence.kind, "pages")
              const [id = "none"] = confluence.pages.keys()
              assert.strictEqual((yield* pages.use((confluence) => confluence.getPage(id))).id, id)

              const reports = yield* registry.drain
              assert.strictEqual(reports.length, count)
              assert.isTrue(reports.every(({ cut, inUse }) => cut === 0 && inUse === 0))
            }).pipe(
              Effect.scoped,
              Effect.provide(
                Connections.layerConfig(all).pipe(
                  Layer.provide(Layer.setConfigProvider(ConfigProvider.fromJson(configuration)))
                )
              )
            )
          }).pipe(Effect.scoped),
        120_000
      )
    }
  )
})
