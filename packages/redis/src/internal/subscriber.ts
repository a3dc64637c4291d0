/**
 * One connection for all subscriptions of a client, made with the first listener and released with the last. It is
 * looked after while nothing is said: a silence that nobody answers for is a loss.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Scope from "effect/Scope"
import type { RedisError } from "../RedisError.ts"
import type * as Attempt from "./attempt.ts"
import { Among, type Core, notSent } from "./call.ts"
import * as Connection from "./connection.ts"
import { invalidations } from "./driver.ts"
import type * as Model from "./model.ts"

export interface Subscriber {
  /** Listens without waiting; gives back what ends it. */
  readonly attach: (kind: Kind, names: ReadonlyArray<string>, handler: Listener["handler"]) => () => void
  readonly listen: Model.Service["listen"]
  /** Listens to the invalidations of keys: for a subscriber whose connection has the server track them. */
  readonly track: (handler: (event: Model.Tracked) => void) => Effect.Effect<void, RedisError, Scope.Scope>
  readonly listeners: () => number
  /** Goes elsewhere where the server that is listened to is none of these. */
  readonly leave: (present: ReadonlySet<string>) => void
  readonly close: () => void
}

interface Listener {
  readonly kind: Kind
  readonly names: ReadonlyArray<string>
  readonly handler: (event: Model.Heard | Model.Tracked) => void
  ready: boolean
  /** The server does not allow it: it is not asked again on this connection. */
  refused: boolean
  /** The attempt to subscribe that counts: answers to earlier ones are passed over. */
  round: number
  /** Hears once how the first attempt went. */
  first: ((result: Either.Either<void, RedisError>) => void) | undefined
}

type Kind = "subscribe" | "psubscribe"

/** How often the connection is asked for a sign of life, in milliseconds. */
const heartbeat = 1_000

export const make = (core: Core, attempt: Attempt.AttemptOptions): Subscriber => {
  const listeners = new Set<Listener>()
  /** The listeners by kind and name of channel or pattern. */
  const byName = { subscribe: new Map<string, Set<Listener>>(), psubscribe: new Map<string, Set<Listener>>() }
  let connection: Connection.Connection | undefined
  let beat: ReturnType<typeof setTimeout> | undefined
  let closed = false

  const say = (listener: Listener, event: Model.Heard | Model.Tracked): void => {
    try {
      listener.handler(event)
    } catch (error) {
      // a bug of the handler: it is not to cost the others their messages, nor to be swallowed
      queueMicrotask(() => {
        throw error
      })
    }
  }

  const onMessage = (channel: string, payload: string, pattern: string | undefined): void => {
    const those = pattern === undefined ? byName.subscribe.get(channel) : byName.psubscribe.get(pattern)
    if (those === undefined) return
    for (const listener of [...those]) {
      if (listener.ready) say(listener, { _tag: "Message", channel, payload })
    }
  }

  const onInvalidated = (keys: ReadonlyArray<Uint8Array> | null): void => {
    for (const listener of [...listeners]) if (listener.ready) say(listener, { _tag: "Invalidated", keys })
  }

  const first = (listener: Listener, result: Either.Either<void, RedisError>): void => {
    listener.first?.(result)
    listener.first = undefined
  }

  const command = (
    name: string,
    args: ReadonlyArray<string>,
    done: (result: Either.Either<unknown, RedisError>) => void
  ): void => {
    connection?.submit(
      new Among(name.toUpperCase(), { name, args }, false, performance.now() + core.commandTimeout, done)
    )
  }

  const subscribe = (those: ReadonlyArray<Listener>): void => {
    for (const listener of those) {
      const round = ++listener.round
      listener.refused = false
      command(listener.kind, listener.names, (result) => {
        if (round !== listener.round || !listeners.has(listener)) return
        if (Either.isRight(result)) {
          listener.ready = true
          say(listener, { _tag: "Ready" })
          first(listener, Either.right(undefined))
        } else if (result.left.outcome === "rejected") {
          listener.refused = true
          first(listener, Either.left(result.left))
        } else first(listener, Either.right(undefined))
      })
    }
  }

  const heard = attempt.greeting.track === undefined ? { onMessage } : { onInvalidated }

  const onState = (state: Model.ConnectionState): void => {
    if (state === "ready") {
      subscribe([...listeners])
      clearTimeout(beat)
      beat = setTimeout(check, heartbeat)
      return
    }
    clearTimeout(beat)
    if (state !== "away") return
    const problem = connection?.problem()
    // what the server does not let be tracked will not be for waiting
    const refused = attempt.greeting.track !== undefined && problem?.outcome === "rejected" ? problem : undefined
    for (const listener of [...listeners]) {
      listener.round++
      first(listener, refused === undefined ? Either.right(undefined) : Either.left(refused))
      if (!listener.ready) continue
      listener.ready = false
      say(listener, { _tag: "Lost" })
    }
  }

  const check = (): void => {
    const unheard = [...listeners].filter((listener) => !listener.ready && !listener.refused)
    if (unheard.length > 0) subscribe(unheard)
    else command("ping", [], () => {})
    beat = setTimeout(check, heartbeat)
  }

  const add = (listener: Listener): void => {
    listeners.add(listener)
    for (const name of listener.names) {
      const those = byName[listener.kind].get(name)
      if (those === undefined) byName[listener.kind].set(name, new Set([listener]))
      else those.add(listener)
    }
    if (connection === undefined) {
      connection = Connection.make(core, { ...attempt, ...heard, onState })
      connection.connect()
    } else if (connection.state() === "ready") subscribe([listener])
    else if (connection.state() === "away") first(listener, Either.right(undefined))
  }

  const remove = (listener: Listener): void => {
    if (!listeners.delete(listener)) return
    listener.round++
    const unheard: Array<string> = []
    for (const name of listener.names) {
      const those = byName[listener.kind].get(name)
      those?.delete(listener)
      if (those !== undefined && those.size === 0) {
        byName[listener.kind].delete(name)
        unheard.push(name)
      }
    }
    if (listeners.size === 0) {
      release()
      return
    }
    if (unheard.length > 0 && connection?.state() === "ready") {
      command(listener.kind === "subscribe" ? "unsubscribe" : "punsubscribe", unheard, () => {})
    }
  }

  const release = (): void => {
    clearTimeout(beat)
    connection?.close()
    connection = undefined
  }

  const begin = (
    kind: Kind,
    names: ReadonlyArray<string>,
    handler: Listener["handler"]
  ): Effect.Effect<void, RedisError, Scope.Scope> =>
    Effect.suspend(() => {
      if (closed) return notSent(core.counts, "Closed", kind.toUpperCase(), "the client is released")
      if (names.length === 0) {
        return notSent(core.counts, "Rejected", kind.toUpperCase(), "there is no channel to listen to")
      }
      const listener: Listener = { kind, names, handler, ready: false, refused: false, round: 0, first: undefined }
      return Effect.zipRight(
        Effect.addFinalizer(() => Effect.sync(() => remove(listener))),
        Effect.async<void, RedisError>((resume) => {
          // who listens does not wait for a server that cannot be reached: Ready says when it is
          const timer = setTimeout(() => first(listener, Either.right(undefined)), core.commandTimeout)
          listener.first = (result) => {
            clearTimeout(timer)
            if (Either.isLeft(result)) remove(listener)
            resume(result)
          }
          add(listener)
          return Effect.sync(() => {
            clearTimeout(timer)
            remove(listener)
          })
        })
      )
    })

  return {
    attach: (kind, names, handler) => {
      const listener: Listener = { kind, names, handler, ready: false, refused: false, round: 0, first: undefined }
      add(listener)
      return () => remove(listener)
    },
    listen: (channels, handler) => {
      const [kind, names]: readonly [Kind, ReadonlyArray<string>] =
        "pattern" in channels ? ["psubscribe", [channels.pattern]] : ["subscribe", [...new Set(channels)]]
      return begin(kind, names, (event) => {
        if (event._tag !== "Invalidated") handler(event)
      })
    },
    track: (handler) =>
      begin("subscribe", [invalidations], (event) => {
        if (event._tag !== "Message") handler(event)
      }),
    listeners: () => listeners.size,
    leave: (present) => {
      const id = connection?.id()
      if (id !== undefined && !present.has(id)) connection?.drop()
    },
    close: () => {
      closed = true
      // they are told before the connection is closed, whose end would tell them something else
      for (const listener of [...listeners]) {
        listeners.delete(listener)
        first(listener, notSent(core.counts, "Closed", listener.kind.toUpperCase(), "the client is released"))
      }
      release()
      byName.subscribe.clear()
      byName.psubscribe.clear()
    }
  }
}
