/**
 * The lock backend of one process, by its clock. Who waits here cannot be gone without saying so, so nobody has to be
 * given up for dead.
 */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type { Attempt, Backend, Listener, Request } from "./model.ts"

interface State {
  /** Who holds it, with the kind and the time of expiry. Either one `exclusive` or any number of another kind. */
  readonly holders: Map<string, { readonly kind: Request["kind"]; expiresAt: number }>
  /** Who waits, in the order of asking. */
  readonly waiting: Map<string, Request>
  readonly listeners: Set<Listener>
}

export const make = (clock: Clock.Clock): Backend => {
  const states = new Map<string, State>()
  let last = 0n
  const now = () => Number(clock.unsafeCurrentTimeNanos()) / 1e6

  const name = ({ key, kind }: Pick<Request, "kind" | "key">): string => `${kind === "permit" ? "p" : "l"}:${key}`

  const stateOf = (request: Pick<Request, "kind" | "key">): State => {
    const found = states.get(name(request))
    if (found !== undefined) return found
    const made: State = { holders: new Map(), waiting: new Map(), listeners: new Set() }
    states.set(name(request), made)
    return made
  }

  const forget = (request: Pick<Request, "kind" | "key">, { holders, listeners, waiting }: State): void => {
    if (holders.size === 0 && listeners.size === 0 && waiting.size === 0) states.delete(name(request))
  }

  const wake = ({ listeners, waiting }: State): void => {
    const fair = firstFair(waiting)
    for (const listener of [...listeners]) listener.wake(fair)
  }

  const firstFair = (waiting: State["waiting"]): string | undefined => {
    for (const one of waiting.values()) if (one.fair) return one.owner
    return undefined
  }

  /** How many could be granted now, those included that have to go first. */
  const free = (request: Request, { holders }: State): number => {
    switch (request.kind) {
      case "exclusive":
        return holders.size === 0 ? 1 : 0
      case "permit":
        return request.permits - holders.size
      case "shared":
        for (const { kind } of holders.values()) if (kind === "exclusive") return 0
        return Number.POSITIVE_INFINITY
    }
  }

  /** How many go first: those who ask fairly and came before; for a reader any writer that came before. */
  const ahead = (request: Request, { waiting }: State): number => {
    let count = 0
    for (const one of waiting.values()) {
      if (one.owner === request.owner) {
        if (request.fair) break
      } else if (one.fair) count += request.kind === "shared" && one.kind === "exclusive" ? blocked : 1
      else if (request.kind === "shared" && !request.fair && one.kind === "exclusive") return blocked
    }
    return count
  }

  const acquire = (request: Request, patience: number): Attempt => {
    const time = now()
    const state = stateOf(request)
    let earliest = Number.POSITIVE_INFINITY
    for (const [owner, { expiresAt }] of state.holders) {
      if (expiresAt <= time) state.holders.delete(owner)
      else earliest = Math.min(earliest, expiresAt)
    }
    if (free(request, state) > ahead(request, state)) {
      state.waiting.delete(request.owner)
      state.holders.set(request.owner, { kind: request.kind, expiresAt: time + request.ttl })
      const micros = clock.unsafeCurrentTimeNanos() / 1_000n
      last = micros > last ? micros : last + 1n
      // the next in the row may fit in beside it
      if (request.kind !== "exclusive" && firstFair(state.waiting) !== undefined) wake(state)
      return { _tag: "Granted", token: last }
    }
    if (patience > 0 && !state.waiting.has(request.owner)) state.waiting.set(request.owner, request)
    forget(request, state)
    return { _tag: "Refused", retryAfter: earliest === Number.POSITIVE_INFINITY ? patience : earliest - time }
  }

  const holds = (request: Request): boolean => {
    const holder = states.get(name(request))?.holders.get(request.owner)
    return holder !== undefined && holder.expiresAt > now()
  }

  const remove = (request: Request, withPlace: boolean): boolean => {
    const state = states.get(name(request))
    if (state === undefined) return false
    const held = holds(request)
    const waited = withPlace && state.waiting.delete(request.owner)
    if (state.holders.delete(request.owner) || waited) wake(state)
    forget(request, state)
    return held
  }

  return {
    acquire: (request, patience) => Effect.sync(() => acquire(request, patience)),
    renew: (requests) =>
      Effect.sync(() =>
        requests.map((request) => {
          const holder = states.get(name(request))?.holders.get(request.owner)
          const time = now()
          if (holder === undefined || holder.expiresAt <= time) return Either.right(false)
          holder.expiresAt = time + request.ttl
          return Either.right(true)
        })
      ),
    check: (requests) => Effect.sync(() => requests.map((request) => Either.right(holds(request)))),
    release: (request) => Effect.sync(() => remove(request, false)),
    abandon: (request) => Effect.sync(() => void remove(request, true)),
    listen: (request, listener) =>
      Effect.acquireRelease(
        Effect.sync(() => {
          stateOf(request).listeners.add(listener)
          listener.ready()
        }),
        () =>
          Effect.sync(() => {
            const state = states.get(name(request))
            if (state === undefined) return
            state.listeners.delete(listener)
            forget(request, state)
          })
      )
  }
}

/** More than are ever free. */
const blocked = Number.POSITIVE_INFINITY
