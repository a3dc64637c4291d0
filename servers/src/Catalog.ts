/** Every server that the tests use, as `pnpm servers` starts and installs them. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as ChromaServer from "./ChromaServer.ts"
import * as DocumentDbServer from "./DocumentDbServer.ts"
import * as DynaliteServer from "./DynaliteServer.ts"
import * as DynamoDbLocalServer from "./DynamoDbLocalServer.ts"
import * as EmbeddedPostgres from "./EmbeddedPostgres.ts"
import * as FauxqsServer from "./FauxqsServer.ts"
import * as MariaDbServer from "./MariaDbServer.ts"
import * as MemcachedServer from "./MemcachedServer.ts"
import * as MongoWireServer from "./MongoWireServer.ts"
import * as PGliteServer from "./PGliteServer.ts"
import * as PgVectorServer from "./PgVectorServer.ts"
import * as PostgresServer from "./PostgresServer.ts"
import * as RadosgwServer from "./RadosgwServer.ts"
import * as RedisCluster from "./RedisCluster.ts"
import * as RedisSentinel from "./RedisSentinel.ts"
import * as RedisServer from "./RedisServer.ts"

/** Why a server could not be started. */
export interface Failure {
  readonly message: string
}

/** What a program needs to find a server: variables of its environment. */
export type Environment = Readonly<Record<string, string>>

/** A server. */
export interface Entry {
  readonly name: string
  /** `fast` servers are ready within seconds; `full` has all. */
  readonly tier: "fast" | "full"
  /** Where it cannot be had, nothing else is lost. */
  readonly optional?: boolean
  readonly start: Effect.Effect<Environment, Failure, Scope.Scope>
  /** What npm, or a compiler, brings; what Debian brings is for apt. */
  readonly install?: Effect.Effect<unknown, Failure>
}

const url =
  (variable: string) =>
  (server: { readonly url: string }): Environment => ({ [variable]: server.url })

/** An endpoint of S3's protocol and who may use it: made for this run, and known to nobody else. */
const bucketless = (
  prefix: string,
  server: { readonly endpoint: string; readonly accessKeyId: string; readonly secretAccessKey: string }
): Environment => ({
  [`${prefix}_ENDPOINT`]: server.endpoint,
  [`${prefix}_ACCESS_KEY_ID`]: server.accessKeyId,
  [`${prefix}_SECRET_ACCESS_KEY`]: server.secretAccessKey
})

/** The servers, in the order in which they are shown. */
export const entries: ReadonlyArray<Entry> = [
  { name: "redis", tier: "fast", start: Effect.map(RedisServer.make(), url("REDIS_URL")) },
  { name: "postgres", tier: "fast", start: Effect.map(PostgresServer.make(), url("POSTGRES_URL")) },
  {
    name: "postgres-18",
    tier: "fast",
    start: Effect.map(EmbeddedPostgres.make(), url("POSTGRES_18_URL")),
    install: EmbeddedPostgres.install
  },
  {
    name: "pglite",
    tier: "fast",
    start: Effect.map(PGliteServer.make, url("PGLITE_URL")),
    install: PGliteServer.install
  },
  {
    name: "memcached",
    tier: "fast",
    start: Effect.map(MemcachedServer.make(), ({ address }) => ({ MEMCACHED_SERVERS: address }))
  },
  {
    name: "dynalite",
    tier: "fast",
    start: Effect.map(DynaliteServer.make(), ({ endpoint }) => ({ DYNALITE_ENDPOINT: endpoint }))
  },
  {
    name: "dynamodb-local",
    tier: "full",
    start: Effect.map(DynamoDbLocalServer.make(), ({ endpoint }) => ({ DYNAMODB_ENDPOINT: endpoint })),
    install: DynamoDbLocalServer.install
  },
  {
    name: "chroma",
    tier: "fast",
    start: Effect.map(ChromaServer.make, url("CHROMA_URL")),
    install: ChromaServer.install
  },
  { name: "mongodb-double", tier: "fast", start: Effect.map(MongoWireServer.make(), url("MONGODB_DOUBLE_URL")) },
  { name: "fauxqs", tier: "fast", start: Effect.map(FauxqsServer.make, (server) => bucketless("FAUXQS", server)) },
  {
    name: "pgvector",
    tier: "full",
    start: Effect.map(PgVectorServer.make(), url("PGVECTOR_URL")),
    install: PgVectorServer.install
  },
  { name: "radosgw", tier: "full", start: Effect.map(RadosgwServer.make, (server) => bucketless("RADOSGW", server)) },
  {
    name: "documentdb",
    tier: "full",
    optional: true,
    start: Effect.map(DocumentDbServer.make, url("DOCUMENTDB_URL")),
    install: DocumentDbServer.install
  },
  {
    name: "redis-cluster",
    tier: "full",
    start: Effect.map(RedisCluster.make(), ({ nodes }) => ({
      REDIS_CLUSTER: nodes.map(({ host, port }) => `${host}:${port}`).join(",")
    }))
  },
  {
    name: "redis-sentinel",
    tier: "full",
    start: Effect.map(RedisSentinel.make(), ({ sentinels }) => ({
      REDIS_SENTINELS: sentinels.map(({ host, port }) => `${host}:${port}`).join(",")
    }))
  },
  { name: "mariadb", tier: "full", start: Effect.map(MariaDbServer.make, url("MARIADB_URL")) }
]

/** The entries of a tier: `full` has those of `fast` too. */
export const ofTier = (tier: "fast" | "full"): ReadonlyArray<Entry> =>
  entries.filter((entry) => tier === "full" || entry.tier === "fast")
