/**
 * The port `ObjectStore` on S3, and on what speaks its protocol: Amazon's, Ceph's, MinIO's, Cloudflare's and others'. The
 * wire is our own: requests are signed with Signature Version 4 and sent by `undici`.
 *
 * @since 0.1.0
 */
import {
  type Connection,
  ConnectionError,
  type ConnectMode,
  configOfSchema,
  Fields,
  type Kind,
  kindOf,
  type Plane
} from "@underlay/core/connection/Connection"
import type * as ExternalClient from "@underlay/core/external/ExternalClient"
import type * as HttpTransport from "@underlay/core/external/HttpTransport"
import * as ObjectStore from "@underlay/core/storage/ObjectStore"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Aws from "../internal/aws/credentials.ts"
import * as HttpConnection from "../internal/http/httpConnection.ts"
import { addressOf } from "../internal/s3/address.ts"
import * as Client from "../internal/s3/client.ts"
import * as Errors from "../internal/s3/errors.ts"
import * as Store from "../internal/s3/store.ts"
import * as Transport from "../internal/s3/transport.ts"
import * as Upload from "../internal/s3/upload.ts"
import * as Xml from "../internal/s3/xml.ts"

/**
 * Credentials as an Effect of one's own gives them: it is asked again five minutes before they expire.
 *
 * @since 0.1.0
 * @category models
 */
export interface Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: Redacted.Redacted
  readonly sessionToken?: Redacted.Redacted | undefined
  readonly expiration?: Date | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface S3Settings {
  readonly bucket: string
  /** By default `AWS_REGION`, `AWS_DEFAULT_REGION` or the profile's; `us-east-1` with an endpoint of one's own. */
  readonly region?: string | undefined
  /** `https://s3.example.com`; Amazon's by default. */
  readonly endpoint?: string | URL | undefined
  /** Whether the bucket is in the path or in the host: `path` with an endpoint of one's own, else `virtual`. */
  readonly addressing?: "path" | "virtual" | undefined
  /** With `secretAccessKey`. Without them the environment, the shared files, and the roles of AWS are asked. */
  readonly accessKeyId?: string | undefined
  readonly secretAccessKey?: Redacted.Redacted | undefined
  readonly sessionToken?: Redacted.Redacted | undefined
  /** The section of the shared files: `AWS_PROFILE`, else `default`. */
  readonly profile?: string | undefined
  /** Credentials from elsewhere. */
  readonly credentials?: Effect.Effect<Credentials, ConnectionError> | undefined
  /** Makes the bucket when it connects, where there is none: off. */
  readonly createBucket?: boolean | undefined
  /** `external` (each request is watched) or `internal` (nothing is shown, nothing is sent twice): external. */
  readonly plane?: Plane | undefined
  /** `eager` proves that the bucket can be reached before anything starts: eager. */
  readonly connect?: ConnectMode | undefined
  /** The limit of a request that carries no object: 30 s. */
  readonly timeout?: Duration.DurationInput | undefined
  /** The limit of a request that carries an object or a part: 5 minutes. */
  readonly transferTimeout?: Duration.DurationInput | undefined
  /** How long a read waits for the next bytes: 30 s. */
  readonly idleTimeout?: Duration.DurationInput | undefined
  /** Connections at the most: 50. */
  readonly maxConnections?: number | undefined
  readonly connectTimeout?: Duration.DurationInput | undefined
  readonly drainTimeout?: Duration.DurationInput | undefined
  readonly healthTimeout?: Duration.DurationInput | undefined
  /** On the external plane: how often a request that may be sent twice is sent again. Twice. */
  readonly retries?: number | undefined
  /** On the external plane: from when a request is logged as slow. */
  readonly slowAfter?: Duration.DurationInput | undefined
  /** On the external plane: the levels of the one log line of a request. */
  readonly logLevels?: ExternalClient.LogLevels | undefined
  readonly tls?: HttpTransport.Tls | undefined
  /** The size of parts in bytes, 5 MiB or more: 8 MiB. */
  readonly partSize?: number | undefined
  /** How many parts are on their way at once: 4. With `partSize` it is what an upload needs of memory. */
  readonly uploadConcurrency?: number | undefined
  /** Bytes in memory above this are sent in parts: 16 MiB. */
  readonly multipartAbove?: number | undefined
  /** Objects above this are copied in parts: 5 GiB, the most that one request copies. */
  readonly copyInPartsAbove?: number | undefined
  /** How often a read that breaks off goes on with the rest: 3 times on the external plane, never on the internal one. */
  readonly resumeReads?: number | undefined
  /** Sends a checksum with every object, which the endpoint keeps and reads are checked by. Not all endpoints know them. */
  readonly checksum?: "sha256" | "crc32c" | undefined
  /** Whether the endpoint keeps the conditions of a put: yes. */
  readonly conditionalPut?: boolean | undefined
  /** Whether it keeps them for objects of parts too: yes for Amazon's, no with an endpoint of one's own. */
  readonly conditionalMultipart?: boolean | undefined
  /**
   * Whether the etag of `ifMatch` of a put is sent in quotes, as HTTP has it: yes for Amazon's, which takes both; no with an
   * endpoint of one's own, for Ceph 16 takes it without them only.
   */
  readonly quotesIfMatch?: boolean | undefined
  /** Sent with every object that is written: encryption, storage class. */
  readonly putHeaders?: Readonly<Record<string, string>> | undefined
}

type StoreOf = Context.Tag.Service<ObjectStore.ObjectStore>

/**
 * A connection with the store on it.
 *
 * @since 0.1.0
 * @category models
 */
export interface S3Connection extends Connection<StoreOf> {
  readonly store: StoreOf
}

/**
 * A bucket as a connection: health, statistics, and the store.
 *
 * @since 0.1.0
 * @category tags
 */
export class S3 extends Context.Tag("@underlay/connections/S3")<S3, S3Connection>() {}

const kindName = "s3"
const mebibyte = 1_048_576

/**
 * Connects to a bucket. It fails with `InvalidSettings` for settings that cannot work, and where it is eager with what the
 * endpoint said.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: S3Settings,
  name = kindName
): Effect.fn.Return<S3Connection, ConnectionError, Scope.Scope> {
  const at = { kind: kindName, name }
  const invalid = (description: string) =>
    new ConnectionError({ reason: "InvalidSettings", kind: kindName, connection: name, method: "make", description })
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$/.test(settings.bucket) || settings.bucket.includes("..")) {
    return yield* invalid("bucket is no name of a bucket")
  }
  for (const option of ["uploadConcurrency", "multipartAbove", "copyInPartsAbove", "maxConnections"] as const) {
    const value = settings[option]
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1)) {
      return yield* invalid(`${option} is a whole number from 1 up`)
    }
  }
  const partSize = settings.partSize ?? 8 * mebibyte
  if (!(Number.isSafeInteger(partSize) && partSize >= 5 * mebibyte && partSize <= 5_120 * mebibyte)) {
    return yield* invalid("partSize is from 5 MiB to 5 GiB, in bytes")
  }
  const endpoint = settings.endpoint === undefined ? undefined : String(settings.endpoint)
  if (endpoint !== undefined && !/^https?:\/\/[^/?#]+[^?#]*$/.test(endpoint)) {
    return yield* invalid("endpoint is like https://host/path")
  }
  const region = settings.region ?? (endpoint === undefined ? yield* Aws.region(at, settings) : "us-east-1")
  if (!/^[A-Za-z0-9_-]+$/.test(region)) return yield* invalid("region is no name of a region")
  const plane = settings.plane ?? "external"
  const address = yield* Effect.try({
    try: () =>
      addressOf({
        bucket: settings.bucket,
        region,
        endpoint: endpoint === undefined ? undefined : new URL(endpoint),
        addressing: settings.addressing
      }),
    catch: () => invalid("endpoint is like https://host/path")
  })
  const credentials = yield* Aws.provider(at, settings)
  const clock: Client.Options["clock"] = { serverTime: undefined, offset: 0 }
  const clientOf = (http: HttpConnection.HttpConnection) =>
    Client.make(http, { at, address, region, credentials, clock })

  const connectTimeout = settings.connectTimeout ?? "5 seconds"
  const client = yield* Transport.make(at, {
    connections: settings.maxConnections ?? 50,
    connectTimeout,
    idleTimeout: settings.idleTimeout ?? "30 seconds",
    tls: settings.tls
  })
  const http = yield* HttpConnection.make({
    kind: kindName,
    name,
    plane,
    baseUrl: address.origin,
    client,
    connect: settings.connect,
    timeout: settings.timeout,
    maxConnections: settings.maxConnections,
    connectTimeout,
    drainTimeout: settings.drainTimeout,
    healthTimeout: settings.healthTimeout,
    retries: settings.retries,
    slowAfter: settings.slowAfter,
    logLevels: settings.logLevels,
    attributes: { "rpc.system.name": "aws-api", "aws.s3.bucket": settings.bucket },
    errorOf: (status, body, headers) => {
      const known = Errors.errorOf(status, body, headers)
      if (known.code === "RequestTimeTooSkewed") {
        const time = Date.parse(headers["date"] ?? "")
        clock.serverTime = Number.isNaN(time) ? undefined : time
      }
      return known
    },
    check: (http) => check(clientOf(http), settings, region)
  })
  const uploads = yield* Upload.makeUploads(at, settings.drainTimeout ?? "5 seconds")
  const store = Store.make({
    client: clientOf(http),
    uploads,
    bucket: settings.bucket,
    capabilities: {
      persistent: true,
      conditionalPut: settings.conditionalPut ?? true,
      presign: true,
      checksums: settings.checksum === undefined ? [] : [settings.checksum]
    },
    partSize,
    concurrency: settings.uploadConcurrency ?? 4,
    multipartAbove: Math.max(partSize, settings.multipartAbove ?? 16 * mebibyte),
    copyInPartsAbove: Math.max(5 * mebibyte, Math.min(settings.copyInPartsAbove ?? 5_120 * mebibyte, 5_120 * mebibyte)),
    conditionalMultipart: settings.conditionalMultipart ?? endpoint === undefined,
    quotesIfMatch: settings.quotesIfMatch ?? endpoint === undefined,
    checksum: settings.checksum,
    resumeReads: settings.resumeReads ?? (plane === "external" ? 3 : 0),
    completeRetries: plane === "external" ? (settings.retries ?? 2) : 0,
    transferTimeout: settings.transferTimeout ?? "5 minutes",
    putHeaders: settings.putHeaders ?? {}
  })
  return { ...http.connectionOf(store), store }
})

/** Asks for a key: who may not list, but read, is not down for it. */
const check = (client: Client.Client, settings: S3Settings, region: string) => {
  const list = client.text({ operation: "ListObjectsV2", method: "GET", query: "list-type=2&max-keys=1" }).pipe(
    Effect.asVoid,
    Effect.catchIf(
      (error) => error.reason === "PermissionDenied",
      (error) =>
        Effect.succeed({
          status: "degraded" as const,
          details: { reason: error.reason, note: "the credentials do not permit to list the bucket" }
        })
    )
  )
  if (settings.createBucket !== true) return list
  return Effect.catchIf(
    list,
    (error) => error.code === "NoSuchBucket",
    () => Effect.zipRight(createBucket(client, settings, region), list)
  )
}

const createBucket = (client: Client.Client, settings: S3Settings, region: string) =>
  client
    .headers({
      operation: "CreateBucket",
      method: "PUT",
      // Amazon's bucket of another region than the first is told where to be; other endpoints know one place.
      ...(settings.endpoint === undefined && region !== "us-east-1"
        ? {
            body: Buffer.from(
              `<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><LocationConstraint>${Xml.escape(region)}</LocationConstraint></CreateBucketConfiguration>`
            )
          }
        : {})
    })
    .pipe(
      Effect.asVoid,
      Effect.catchIf(
        (error) => error.code === "BucketAlreadyOwnedByYou",
        () => Effect.void
      )
    )

const contextOf = (connection: S3Connection): Context.Context<ObjectStore.ObjectStore | S3> =>
  Context.add(Context.make(ObjectStore.ObjectStore, connection.store), S3, connection)

/**
 * The store and the connection, from settings.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (settings: S3Settings): Layer.Layer<ObjectStore.ObjectStore | S3, ConnectionError> =>
  Layer.scopedContext(Effect.map(make(settings), contextOf))

/**
 * The settings as they are read from a configuration.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Settings = Schema.Struct({
  bucket: Fields.Text,
  region: Schema.optional(Fields.Text),
  endpoint: Schema.optional(Fields.Url),
  addressing: Schema.optional(Schema.Literal("path", "virtual")),
  accessKeyId: Schema.optional(Fields.Text),
  secretAccessKey: Schema.optional(Fields.Secret),
  sessionToken: Schema.optional(Fields.Secret),
  profile: Schema.optional(Fields.Text),
  createBucket: Schema.optional(Fields.Flag),
  plane: Schema.optional(Fields.Plane),
  connect: Schema.optional(Fields.ConnectMode),
  timeout: Schema.optional(Fields.Duration),
  transferTimeout: Schema.optional(Fields.Duration),
  idleTimeout: Schema.optional(Fields.Duration),
  maxConnections: Schema.optional(Fields.Count),
  connectTimeout: Schema.optional(Fields.Duration),
  drainTimeout: Schema.optional(Fields.Duration),
  healthTimeout: Schema.optional(Fields.Duration),
  retries: Schema.optional(Schema.NonNegativeInt),
  slowAfter: Schema.optional(Fields.Duration),
  partSize: Schema.optional(Fields.Count),
  uploadConcurrency: Schema.optional(Fields.Count),
  multipartAbove: Schema.optional(Fields.Count),
  copyInPartsAbove: Schema.optional(Fields.Count),
  resumeReads: Schema.optional(Schema.NonNegativeInt),
  checksum: Schema.optional(Schema.Literal("sha256", "crc32c")),
  conditionalPut: Schema.optional(Fields.Flag),
  conditionalMultipart: Schema.optional(Fields.Flag),
  quotesIfMatch: Schema.optional(Fields.Flag),
  putHeaders: Schema.optional(Schema.Record({ key: Schema.String, value: Schema.String }))
})

/**
 * The store and the connection, from the configuration below `path`: `s3`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  path = kindName
): Layer.Layer<ObjectStore.ObjectStore | S3, ConnectionError | ConfigError.ConfigError> =>
  Layer.scopedContext(
    Effect.map(
      Effect.flatMap(Config.nested(configOfSchema(Settings), path), (settings) => make(settings)),
      contextOf
    )
  )

/**
 * S3 for the registry of connections: `Connections.layer([S3.kind])`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Kind<StoreOf, typeof Settings.Type> = kindOf({
  kind: kindName,
  schema: Settings,
  make: (name, settings) => make(settings, name)
})
