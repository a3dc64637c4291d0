/** The settings of Jira and of Confluence, which are the same. */
import { type ConnectionError, type ConnectMode, Fields, type Plane } from "@underlay/core/connection/Connection"
import type * as ExternalClient from "@underlay/core/external/ExternalClient"
import type * as HttpTransport from "@underlay/core/external/HttpTransport"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"

export interface SiteSettings {
  /** The address of the site: `https://your-domain.atlassian.net`. Either this or `cloudId`. */
  readonly url?: URL | string | undefined
  /** The id of the site, for tokens of OAuth and of service accounts, which go through `api.atlassian.com`. */
  readonly cloudId?: string | undefined
  /** Whose API token `token` is (basic authentication). Without it `token` is a bearer token. */
  readonly email?: string | undefined
  /** The token, or an effect that gives it and is run for each attempt, so that it can be replaced while it is in use. */
  readonly token: Redacted.Redacted | Effect.Effect<Redacted.Redacted, ConnectionError>
  /** Whether `url` may be `http:`, which is for servers on this machine alone. No by default. */
  readonly allowInsecureLoopback?: boolean | undefined
  /** `external` by default: each call is one span, one log line and metrics, and reads are tried again. */
  readonly plane?: Plane | undefined
  /** `eager` by default: the layer fails where the site refuses or is not there. */
  readonly connect?: ConnectMode | undefined
  /** The limit of a call with all its attempts, and of the wait for more of a download: 30 s. */
  readonly timeout?: Duration.DurationInput | undefined
  /** How often a read is tried again: twice. Nothing that writes is. */
  readonly retries?: number | undefined
  /** The wait before the first time, where the site does not say how long: 1 s, then more. */
  readonly retryDelay?: Duration.DurationInput | undefined
  /** Connections at the most: 50. */
  readonly maxConnections?: number | undefined
  /** 5 s. */
  readonly connectTimeout?: Duration.DurationInput | undefined
  /** How long a release waits for calls under way: 5 s. */
  readonly drainTimeout?: Duration.DurationInput | undefined
  /** 1 s. */
  readonly healthTimeout?: Duration.DurationInput | undefined
  /** From when a call is logged as slow: 5 s. */
  readonly slowAfter?: Duration.DurationInput | undefined
  readonly tls?: HttpTransport.Tls | undefined
  readonly logLevels?: ExternalClient.LogLevels | undefined
}

/** The same, as they are read from a configuration. */
export const siteFields = {
  url: Schema.optional(Fields.Url),
  cloudId: Schema.optional(Fields.Text),
  email: Schema.optional(Fields.Text),
  token: Fields.Secret,
  allowInsecureLoopback: Schema.optional(Fields.Flag),
  plane: Schema.optional(Fields.Plane),
  connect: Schema.optional(Fields.ConnectMode),
  timeout: Schema.optional(Fields.Duration),
  retries: Schema.optional(Schema.NonNegativeInt),
  retryDelay: Schema.optional(Fields.Duration),
  maxConnections: Schema.optional(Fields.Count),
  connectTimeout: Schema.optional(Fields.Duration),
  drainTimeout: Schema.optional(Fields.Duration),
  healthTimeout: Schema.optional(Fields.Duration),
  slowAfter: Schema.optional(Fields.Duration)
}
