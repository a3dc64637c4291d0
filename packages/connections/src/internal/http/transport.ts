/**
 * The connections of an HTTP client: a `Pool` of `undici` for each origin that is replaced when its other side has vanished.
 * Connections that nobody uses say nothing of a peer that is gone, so that request after request would be sent into the
 * void, each until its time is over.
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as HttpTransport from "@underlay/core/external/HttpTransport"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { Dispatcher, Pool } from "undici"
import { load } from "../driver.ts"

export interface Settings {
  /**
   * Connections to one origin at the most. Where they were replaced, those with requests under way come on top until these
   * have ended: as many again, and no more.
   */
  readonly connections: number
  readonly connectTimeout: Duration.DurationInput
  /** How long to wait for the next bytes of a body. For ever by default: calls have limits of their own. */
  readonly idleTimeout?: Duration.DurationInput | undefined
  readonly tls?: HttpTransport.Tls | undefined
}

/** Dispatches on the pool of the moment. */
export interface Connections {
  readonly dispatch: (options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler) => boolean
}

/**
 * A request that got no answer in this time, while nobody else got one either, tells of a peer that is gone. Who gives up
 * earlier tells of himself.
 */
const silence = 200

/** The longest time that a timer of Node can wait. */
const longest = 2_147_483_647

type Handler = Dispatcher.DispatchHandler
type Controller = Dispatcher.DispatchController

/** Makes them. What is under way on them when the scope closes is ended. */
export const connections = (
  at: { readonly kind: string; readonly name: string },
  settings: Settings
): Effect.Effect<Connections, ConnectionError, Scope.Scope> =>
  Effect.gen(function* () {
    const invalid = (description: string, cause?: unknown) =>
      new ConnectionError({
        reason: "InvalidSettings",
        kind: at.kind,
        connection: at.name,
        method: "make",
        description,
        sent: false,
        ...(cause === undefined ? {} : { cause })
      })
    if (!(Number.isSafeInteger(settings.connections) && settings.connections > 0)) {
      return yield* invalid("connections is a whole number above 0")
    }
    const [connectTimeout, bodyTimeout] = yield* Effect.forEach(
      [["connectTimeout", settings.connectTimeout] as const, ["idleTimeout", settings.idleTimeout] as const],
      ([name, input]) =>
        input === undefined
          ? Effect.succeed(0)
          : Option.match(Duration.decodeUnknown(input), {
              onNone: () => invalid(`${name} is no duration`),
              onSome: (duration) => {
                const millis = Math.ceil(Duration.toMillis(duration))
                return millis > 0
                  ? Effect.succeed(millis > longest ? 0 : millis)
                  : invalid(`${name} is longer than nothing`)
              }
            })
    )
    const undici = yield* load(at, "undici", "7", () => import("undici"))
    const create = (origin: string) =>
      new undici.Pool(origin, {
        connections: settings.connections,
        connectTimeout: connectTimeout ?? 0,
        // The limit of a request is that of its call: some are silent for minutes before their headers.
        headersTimeout: 0,
        bodyTimeout: bodyTimeout ?? 0,
        ...(settings.tls === undefined ? {} : { connect: { ...settings.tls } as object })
      })
    return yield* Effect.acquireRelease(
      Effect.sync(() => new Renewed(create)),
      (renewed) => Effect.promise(() => renewed.destroy())
    )
  })

/** The HTTP client of such connections. */
export const make = (
  at: { readonly kind: string; readonly name: string },
  settings: Settings
): Effect.Effect<HttpClient.HttpClient, ConnectionError, Scope.Scope> =>
  Effect.map(connections(at, settings), HttpTransport.fromDispatcher)

/**
 * Plain mutable state: this is on the way of every request. It has pools of its own and no `Agent`, which forgets a pool
 * that it has closed: requests that wait in one, or are under way, would outlive the agent.
 */
class Renewed implements Connections {
  /** How many answers came. */
  heard = 0
  private readonly create: (origin: string) => Pool
  private readonly current = new Map<string, Pool>()
  /** Those that were replaced and have requests under way. */
  private readonly leaving = new Set<Pool>()
  private over = false

  constructor(create: (origin: string) => Pool) {
    this.create = create
  }

  dispatch(options: Dispatcher.DispatchOptions, handler: Handler): boolean {
    const origin = String(options.origin)
    const pool = this.current.get(origin) ?? this.begin(origin)
    return pool.dispatch(options, new Watched(this, origin, pool, handler))
  }

  /** Requests from now on get connections of their own; those under way end as they would. */
  renew(origin: string, from: Pool): void {
    if (from !== this.current.get(origin) || this.over) return
    // One after the other: where all are slow, each who gives up would add to the connections.
    for (const pool of this.leaving) if (pool.stats.connected > 0) return
    this.retire(origin, from)
  }

  async destroy(): Promise<void> {
    this.over = true
    await Promise.all([...this.current.values(), ...this.leaving].map((pool) => pool.destroy()))
  }

  private begin(origin: string): Pool {
    const pool = this.create(origin)
    this.current.set(origin, pool)
    // Left alone it would connect anew for nobody, whose request was given up.
    pool.on("disconnect", () => {
      if (pool === this.current.get(origin) && pool.stats.connected === 0) this.retire(origin, pool)
    })
    // It refuses what it is asked.
    if (this.over) void pool.destroy()
    return pool
  }

  /** What it has been asked goes on, and is ended with all others. */
  private retire(origin: string, pool: Pool): void {
    this.current.delete(origin)
    this.leaving.add(pool)
    const left = (): void => {
      this.leaving.delete(pool)
    }
    pool.close().then(left, left)
  }
}

/** Hands on what a request hears, and notes whether it hears anything. */
class Watched implements Handler {
  private readonly renewed: Renewed
  private readonly origin: string
  private readonly pool: Pool
  private readonly handler: Handler
  private started = -1
  private heard = 0

  constructor(renewed: Renewed, origin: string, pool: Pool, handler: Handler) {
    this.renewed = renewed
    this.origin = origin
    this.pool = pool
    this.handler = handler
  }

  onRequestStart(controller: Controller, context: unknown): void {
    this.started = performance.now()
    this.heard = this.renewed.heard
    this.handler.onRequestStart?.(controller, context)
  }

  onRequestUpgrade(...given: Parameters<NonNullable<Handler["onRequestUpgrade"]>>): void {
    this.handler.onRequestUpgrade?.(...given)
  }

  onResponseStart(...given: Parameters<NonNullable<Handler["onResponseStart"]>>): void {
    this.started = -1
    this.renewed.heard++
    this.handler.onResponseStart?.(...given)
  }

  onResponseData(controller: Controller, chunk: Buffer): void {
    this.handler.onResponseData?.(controller, chunk)
  }

  onResponseEnd(...given: Parameters<NonNullable<Handler["onResponseEnd"]>>): void {
    this.handler.onResponseEnd?.(...given)
  }

  onResponseError(controller: Controller, error: Error): void {
    const { renewed, started } = this
    this.started = -1
    if (started >= 0 && renewed.heard === this.heard && performance.now() - started >= silence) {
      renewed.renew(this.origin, this.pool)
    }
    this.handler.onResponseError?.(controller, error)
  }
}
