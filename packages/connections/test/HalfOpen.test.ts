/**
 * Every kind of connection whose peer vanishes without a word while it is in use: its sockets stand and nobody is behind
 * them. Its check answers `down` within its budget and 50 ms; once there is a way again it is up and in use again, on new
 * sockets, and none of the dead ones is kept.
 *
 * PGlite and the file system are not here: they have no peer. Redis is in `packages/redis`.
 */
import * as Path from "node:path"
import * as V8 from "node:v8"
import * as Vm from "node:vm"
import { assert, describe, it } from "@effect/vitest"
import * as Confluence from "@underlay/connections/atlassian/Confluence"
import * as Jira from "@underlay/connections/atlassian/Jira"
import * as Memcached from "@underlay/connections/cache/Memcached"
import * as DynamoDb from "@underlay/connections/database/DynamoDb"
import * as MongoDb from "@underlay/connections/database/MongoDb"
import * as Postgres from "@underlay/connections/database/Postgres"
import * as S3 from "@underlay/connections/object/S3"
import * as Chroma from "@underlay/connections/vector/Chroma"
import * as PgVector from "@underlay/connections/vector/PgVector"
import * as Qdrant from "@underlay/connections/vector/Qdrant"
import type { Connection, Kind } from "@underlay/core/connection/Connection"
import * as ChromaServer from "@underlay/servers/ChromaServer"
import * as DynaliteServer from "@underlay/servers/DynaliteServer"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as FauxqsServer from "@underlay/servers/FauxqsServer"
import * as MemcachedServer from "@underlay/servers/MemcachedServer"
import * as MongoWireServer from "@underlay/servers/MongoWireServer"
import * as Need from "@underlay/servers/Need"
import * as PgVectorServer from "@underlay/servers/PgVectorServer"
import * as PostgresServer from "@underlay/servers/PostgresServer"
import * as Sockets from "@underlay/servers/Sockets"
import * as Timed from "@underlay/servers/Timed"
import { ConfigProvider, Effect, Exit, Scope } from "effect"
import * as ConfluenceDouble from "./atlassian/ConfluenceDouble.ts"
import * as JiraDouble from "./atlassian/JiraDouble.ts"
import * as QdrantDouble from "./vector/QdrantDouble.ts"

const budget = 500
const over = 50
const callers = 4

V8.setFlagsFromString("--expose-gc")
const collect: () => void = Vm.runInNewContext("gc")

/** What the files before this one have left is not collected in the midst of a check that is timed. */
const collected = Effect.sync(() => collect())

/** Looks again and again until it is as wanted. */
const until = <A, E, R>(effect: Effect.Effect<A, E, R>, wanted: (value: A) => boolean): Effect.Effect<A, E, R> =>
  Effect.flatMap(effect, (value) =>
    wanted(value) ? Effect.succeed(value) : Effect.delay(until(effect, wanted), "20 millis")
  )

interface Place {
  readonly port: number
  /** The settings of who goes to this port instead. */
  readonly settings: (port: number) => Readonly<Record<string, unknown>>
}

interface Case {
  readonly kind: string
  readonly need: Need.Need | undefined
  /** How many looks find it down, at most, after there is a way again. */
  readonly looks: number
  readonly place: Effect.Effect<Place, unknown, Scope.Scope>
  /** Makes the connection, and what is asked of it in use. */
  readonly connect: (
    settings: Readonly<Record<string, unknown>>
  ) => Effect.Effect<
    { readonly connection: Connection<unknown>; readonly ask: Effect.Effect<unknown, unknown> },
    unknown,
    Scope.Scope
  >
}

const caseOf = <Client, Settings>(
  kind: Kind<Client, Settings>,
  options: {
    readonly need?: Need.Need
    readonly looks?: number
    readonly place: Effect.Effect<Place, unknown, Scope.Scope>
    readonly ask: (client: Client) => Effect.Effect<unknown, unknown>
  }
): Case => ({
  kind: kind.kind,
  need: options.need,
  looks: options.looks ?? Number.POSITIVE_INFINITY,
  place: options.place,
  connect: (settings) =>
    Effect.gen(function* () {
      const read = yield* Effect.withConfigProvider(kind.settings, ConfigProvider.fromJson(settings))
      const connection = yield* kind.make(kind.kind, read)
      return { connection, ask: connection.use(options.ask) }
    })
})

const moved = (url: string, port: number): string => {
  const address = new URL(url)
  address.port = String(port)
  return address.href
}

const portOf = (url: string): number => Number(new URL(url).port)

const atlassian = { email: "somebody@example.com", token: "secret", allowInsecureLoopback: "true" }
const basic = `Basic ${Buffer.from("somebody@example.com:secret").toString("base64")}`
const aws = { region: "us-east-1", accessKeyId: "test", secretAccessKey: "test" }

const cases: ReadonlyArray<Case> = [
  caseOf(Postgres.kind, {
    need: "postgres",
    looks: 1,
    place: Effect.map(PostgresServer.make(), ({ port, url }) => ({
      port,
      settings: (port) => ({ url: moved(url, port), maxConnections: String(callers) })
    })),
    ask: (sql) => sql`select pg_sleep(0.05)`
  }),
  caseOf(PgVector.kind, {
    need: "pgvector",
    looks: 1,
    place: Effect.map(PgVectorServer.make(), ({ port, url }) => ({
      port,
      settings: (port) => ({ url: moved(url, port), maxConnections: String(callers) })
    })),
    ask: (store) => store.count("none").pipe(Effect.catchAll((error) => (error.isRetryable ? error : Effect.void)))
  }),
  caseOf(MongoDb.kind, {
    place: Effect.map(MongoWireServer.make(), ({ port, url }) => ({
      port,
      settings: (port) => ({ url: `${moved(url, port)}`, maxConnections: String(callers) })
    })),
    ask: (database) => database.collection("notes").findOne({ text: "b" })
  }),
  caseOf(DynamoDb.kind, {
    place: Effect.map(DynaliteServer.make(), ({ endpoint }) => ({
      port: portOf(endpoint),
      settings: (port) => ({ ...aws, endpoint: moved(endpoint, port) })
    })),
    ask: (dynamo) => dynamo.request("ListTables", {})
  }),
  caseOf(S3.kind, {
    place: Effect.map(FauxqsServer.make, ({ endpoint }) => ({
      port: portOf(endpoint),
      settings: (port) => ({ ...aws, endpoint: moved(endpoint, port), bucket: "files", createBucket: "true" })
    })),
    ask: (store) => store.put("key", new Uint8Array(10))
  }),
  caseOf(Memcached.kind, {
    need: "memcached",
    place: Effect.map(MemcachedServer.make(), ({ port }) => ({
      port,
      settings: (port) => ({ servers: `127.0.0.1:${port}` })
    })),
    ask: (memcached) => memcached.get("key")
  }),
  caseOf(Qdrant.kind, {
    need: "openapi",
    place: Effect.acquireRelease(
      Effect.promise(() => QdrantDouble.make({ openapi: Path.join(Need.sharedData, "openapi", "qdrant.json") })),
      (double) => Effect.promise(() => double.close())
    ).pipe(Effect.map(({ url }) => ({ port: portOf(url), settings: (port) => ({ url: moved(url, port) }) }))),
    ask: (store) => store.collections
  }),
  caseOf(Chroma.kind, {
    need: "chroma",
    place: Effect.map(ChromaServer.make, ({ port, url }) => ({
      port,
      settings: (port) => ({ url: moved(url, port) })
    })),
    ask: (store) => store.collections
  }),
  caseOf(Jira.kind, {
    need: "openapi",
    place: Effect.map(JiraDouble.start(1), ({ allowed, origin }) => {
      allowed.add(basic)
      return { port: portOf(origin), settings: (port) => ({ ...atlassian, url: moved(origin, port) }) }
    }),
    ask: (jira) => jira.getIssue("DEMO-1")
  }),
  caseOf(Confluence.kind, {
    need: "openapi",
    place: Effect.map(ConfluenceDouble.start(1), ({ allowed, origin }) => {
      allowed.add(basic)
      return { port: portOf(origin), settings: (port) => ({ ...atlassian, url: moved(origin, port) }) }
    }),
    ask: (confluence) => confluence.findSpace("DEMO")
  })
]

describe("a peer that vanishes from under a connection", () => {
  for (const { connect, kind, looks, need, place } of cases) {
    describe.skipIf(need !== undefined && Need.missing(need))(
      need === undefined ? kind : Need.title(kind, need),
      () => {
        it.live(
          "is found within the budget, and is up again on new sockets when there is a way again",
          () =>
            Effect.gen(function* () {
              const { port, settings } = yield* place
              const proxy = yield* FaultProxy.make({ port })
              const scope = yield* Scope.make()
              const { ask, connection } = yield* Scope.extend(
                connect({ ...settings(proxy.port), connect: "eager", healthTimeout: `${budget} millis` }),
                scope
              )
              const asked = Effect.all(
                Array.from({ length: callers }, () => ask),
                { concurrency: "unbounded" }
              )
              /** One that asked the other side: not one that was told of a check that is still being cut. */
              const looked = until(
                Effect.tap(Effect.zipRight(collected, Timed.timed(connection.health)), ([, took]) =>
                  assert.isTrue(took <= budget + over, `${took} ms`)
                ),
                ([{ status }, took]) => status === "up" || took > budget / 2
              ).pipe(Effect.map(([health]) => health))
              const sockets = Effect.zip(Sockets.heldTo(proxy.port), proxy.counts)
              assert.strictEqual((yield* connection.health).status, "up")
              yield* asked
              // What the server ended by itself is known at both ends.
              const [held] = yield* until(sockets, ([held, { open }]) => held === open && held > 0).pipe(
                Effect.timeout("5 seconds")
              )

              assert.strictEqual(yield* proxy.halfOpen(true), held)
              for (let look = 0; look < 2; look++) {
                const health = yield* looked
                assert.strictEqual(health.status, "down", JSON.stringify(health))
              }

              yield* proxy.halfOpen(false)
              let down = 0
              yield* until(looked, ({ status }) => {
                if (status !== "up") down++
                return status === "up"
              }).pipe(Effect.timeout("15 seconds"))
              assert.isAtMost(down, looks)
              yield* asked.pipe(Effect.timeout("5 seconds"))
              yield* until(sockets, ([held, { open }]) => held === open).pipe(Effect.timeout("30 seconds"))

              const [, released] = yield* Timed.timed(Scope.close(scope, Exit.void))
              assert.isTrue(released <= 1_000, `${released} ms`)
              yield* until(Sockets.heldTo(proxy.port), (left) => left === 0).pipe(Effect.timeout("1 second"))
            }).pipe(Effect.scoped),
          60_000
        )
      }
    )
  }
})
