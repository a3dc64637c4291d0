import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as ChromaServer from "@underlay/servers/ChromaServer"
import * as DynaliteServer from "@underlay/servers/DynaliteServer"
import * as FauxqsServer from "@underlay/servers/FauxqsServer"
import * as MemcachedServer from "@underlay/servers/MemcachedServer"
import * as MongoWireServer from "@underlay/servers/MongoWireServer"
import * as Need from "@underlay/servers/Need"
import * as PostgresServer from "@underlay/servers/PostgresServer"
import * as Readme from "@underlay/servers/Readme"
import { Effect, type Scope } from "effect"
import * as ConfluenceDouble from "./atlassian/ConfluenceDouble.ts"
import * as JiraDouble from "./atlassian/JiraDouble.ts"
import * as QdrantDouble from "./vector/QdrantDouble.ts"

const root = Path.join(import.meta.dirname, "..")
const blocks = Readme.blocks(root)

type Variables = Readonly<Record<string, string>>

/** What the examples need: a server, or a double where the product does not run here, and where it is told. */
const places: Readonly<
  Record<string, { readonly need?: Need.Need; readonly start: Effect.Effect<Variables, unknown, Scope.Scope> }>
> = {
  PGlite: { start: Effect.succeed({}) },
  Postgres: { need: "postgres", start: Effect.map(PostgresServer.make(), ({ url }) => ({ DATABASE_URL: url })) },
  MongoDb: { start: Effect.map(MongoWireServer.make(), ({ url }) => ({ MONGODB_URL: url })) },
  DynamoDb: { start: Effect.map(DynaliteServer.make(), ({ endpoint }) => ({ DYNAMODB_ENDPOINT: endpoint })) },
  PgVector: { start: Effect.succeed({}) },
  Qdrant: {
    need: "openapi",
    start: Effect.acquireRelease(
      Effect.promise(() => QdrantDouble.make({ openapi: Path.join(Need.sharedData, "openapi", "qdrant.json") })),
      (double) => Effect.promise(() => double.close())
    ).pipe(Effect.map(({ url }) => ({ QDRANT_URL: url })))
  },
  Chroma: { need: "chroma", start: Effect.map(ChromaServer.make, ({ url }) => ({ CHROMA_URL: url })) },
  S3: {
    start: Effect.map(FauxqsServer.make, ({ accessKeyId, endpoint, secretAccessKey }) => ({
      S3_ENDPOINT: endpoint,
      AWS_ACCESS_KEY_ID: accessKeyId,
      AWS_SECRET_ACCESS_KEY: secretAccessKey
    }))
  },
  FileSystem: { start: Effect.succeed({}) },
  Memcached: {
    need: "memcached",
    start: Effect.map(MemcachedServer.make(), ({ address }) => ({ MEMCACHED_SERVERS: address }))
  },
  Jira: {
    need: "openapi",
    start: Effect.map(JiraDouble.start(3), ({ origin }) => ({
      JIRA_URL: origin,
      JIRA_EMAIL: "me@example.com",
      JIRA_TOKEN: "api-token",
      JIRA_ALLOW_INSECURE_LOOPBACK: "true"
    }))
  },
  Confluence: {
    need: "openapi",
    start: Effect.map(ConfluenceDouble.start(3), ({ origin }) => ({
      CONFLUENCE_URL: origin,
      CONFLUENCE_EMAIL: "me@example.com",
      CONFLUENCE_TOKEN: "api-token",
      CONFLUENCE_ALLOW_INSECURE_LOOPBACK: "true"
    }))
  },
  "The registry": { start: Effect.succeed({}) }
}

describe("README", () => {
  it("has an example for each layer", () => {
    assert.deepStrictEqual(
      blocks.map(({ title }) => title),
      Object.keys(places)
    )
  })

  for (const block of blocks) {
    const place = places[block.title]
    const need = place?.need
    it.runIf(need === undefined || !Need.missing(need))(
      `runs: ${need === undefined ? block.title : Need.title(block.title, need)}`,
      () =>
        Effect.runPromise(
          Effect.gen(function* () {
            yield* Readme.environment(yield* place?.start ?? Effect.succeed({}))
            const { files } = yield* Readme.write(root, [block])
            assert.isDefined(yield* Readme.run(files[0] ?? ""))
          }).pipe(Effect.scoped)
        ),
      60_000
    )
  }
})
