/** All kinds that reach a server, with settings that lead to a port of this machine. */
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
import type { AnyKind } from "@underlay/core/connection/Connection"

export interface Reached {
  readonly kind: AnyKind
  /** The settings as a configuration has them, for a server at this port of 127.0.0.1. */
  readonly settings: (port: number) => Readonly<Record<string, unknown>>
}

export const kindsOver = (options: {
  readonly connect: "eager" | "lazy" | "background"
  readonly healthTimeout: string
  readonly secure: boolean
}): ReadonlyArray<Reached> => {
  const { connect, healthTimeout, secure } = options
  const common = { connect, healthTimeout }
  const http = (port: number) => `${secure ? "https" : "http"}://127.0.0.1:${port}`
  const aws = { region: "eu-central-1", accessKeyId: "id", secretAccessKey: "secret" }
  const postgres = (port: number) => ({
    ...common,
    url: `postgres://user:secret@127.0.0.1:${port}/database${secure ? "?sslmode=require" : ""}`
  })
  return [
    { kind: Postgres.kind, settings: postgres },
    { kind: PgVector.kind, settings: postgres },
    {
      kind: MongoDb.kind,
      settings: (port) => ({ ...common, url: `mongodb://127.0.0.1:${port}/database${secure ? "?tls=true" : ""}` })
    },
    { kind: DynamoDb.kind, settings: (port) => ({ ...common, ...aws, endpoint: http(port) }) },
    { kind: S3.kind, settings: (port) => ({ ...common, ...aws, bucket: "bucket", endpoint: http(port) }) },
    { kind: Memcached.kind, settings: (port) => ({ ...common, servers: `127.0.0.1:${port}`, tls: String(secure) }) },
    { kind: Qdrant.kind, settings: (port) => ({ ...common, url: http(port) }) },
    { kind: Chroma.kind, settings: (port) => ({ ...common, url: http(port) }) },
    ...[Jira.kind, Confluence.kind].map((kind) => ({
      kind,
      settings: (port: number) => ({
        ...common,
        url: http(port),
        email: "somebody@example.com",
        token: "secret",
        allowInsecureLoopback: "true"
      })
    }))
  ]
}
