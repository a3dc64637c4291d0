/**
 * What a topology decides: over which connection a call goes.
 */
import type * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import type { RedisError } from "../RedisError.ts"
import type { RedisSettings } from "../RedisSettings.ts"
import type * as Attempt from "./attempt.ts"
import type { Call, Core, TakeBack } from "./call.ts"
import type { Tls } from "./driver.ts"
import type * as Isolated from "./isolated.ts"
import type * as Model from "./model.ts"
import type { Operations } from "./operations.ts"

export interface Router {
  readonly topology: Model.Service["topology"]
  readonly state: () => Model.ConnectionState
  readonly problem: () => RedisError | undefined
  readonly connect: () => void
  /**
   * Whether the first attempts to connect have come to an end, and to a good one: then calls can be served, on a Cluster
   * some of them at least. `late`: what is not there by now need not be waited for.
   */
  readonly begun: (late: boolean) => Either.Either<void, RedisError | undefined> | undefined
  readonly submit: (call: Call) => TakeBack
  readonly cork: () => void
  readonly uncork: () => void
  /** Where an isolated connection goes. */
  readonly place: (key: string | undefined) => Effect.Effect<Isolated.Where, RedisError>
  /** How the connection for subscriptions is had. */
  readonly listening: Attempt.AttemptOptions
  readonly nodes: (shared: Operations) => Effect.Effect<ReadonlyArray<Model.Node>, RedisError>
  readonly close: () => void
}

/** What a router is made of. */
export interface RouterOptions {
  readonly core: Core
  /** The same for connections that are not counted with the shared one. */
  readonly apart: () => Core
  readonly settings: RedisSettings
  readonly tls: Tls
  readonly name: string | undefined
  readonly onState: (state: Model.ConnectionState) => void
  /** Hears that `begun` may say something else now, where the state does not tell. */
  readonly onProgress: () => void
  /** Hears which servers belong to a Cluster now, as `host:port`: what is connected to another is on its own. */
  readonly onLeft: (present: ReadonlySet<string>) => void
}
