/**
 * Brings one change that was kept into the store it was kept for: by compare-and-set, so that nothing newer is written
 * over and nothing comes back that died there.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import type * as SessionStore from "../../state/SessionStore.ts"
import * as PlainJson from "../plainJson.ts"
import { type Change, same } from "./kept.ts"

/** Why a change is not in the store. */
export type Why = "conflict" | "deleted" | "absent" | "uncertain" | "limit" | "refused" | "closed"

/** What became of a change. */
export type Result =
  | { readonly _tag: "Replayed"; readonly known: "stored" | "touched" | "nothing" }
  /** Its session's time ran out before the store was back. */
  | { readonly _tag: "Expired" }
  | { readonly _tag: "Dropped"; readonly why: Why }

/** A session of which both this process and the store have a version of their own. */
export interface Conflict {
  readonly id: string
  readonly kept: SessionStore.Session
  readonly stored: SessionStore.Session
  /** What both began with, where that is known. */
  readonly base: Option.Option<SessionStore.Session>
}

export interface Target {
  readonly store: SessionStore.Service
  readonly isAbsolute: boolean
  readonly tombstone: number
  readonly resolve: ((conflict: Conflict) => SessionStore.Session | undefined) | undefined
  /** Runs what the store is to say nothing of: it was said when the change was kept. */
  readonly quiet: <A>(
    event: "Created" | "Deleted" | "Rotated",
    id: string,
    effect: Effect.Effect<A, SessionStore.SessionStoreError>
  ) => Effect.Effect<A, SessionStore.SessionStoreError>
}

type Step<A> = Effect.Effect<A, SessionStore.SessionStoreError>

const stored: Result = { _tag: "Replayed", known: "stored" }
const touched: Result = { _tag: "Replayed", known: "touched" }
const merged: Result = { _tag: "Replayed", known: "nothing" }
const expired: Result = { _tag: "Expired" }
const dropped = (why: Why): Result => ({ _tag: "Dropped", why })

/** Between finding nothing and creating, somebody else can have created, and deleted again: so often it looks. */
const rounds = 4

const sessionIn = (json: string | undefined): SessionStore.Session | undefined => {
  const value = json === undefined ? undefined : PlainJson.parse(json)
  return PlainJson.isObject(value) ? value : undefined
}

/** Fails as the store does; what is to be given up is a result. */
export const replay = (change: Change, target: Target): Step<Result> =>
  Effect.gen(function* () {
    const { id } = change
    const { quiet, store } = target
    const session = sessionIn(change.json)
    if (session === undefined) {
      yield* quiet("Deleted", id, store.delete(id))
      return stored
    }
    const moved = yield* move(change, target)
    const left = change.expiresAt - (yield* Clock.currentTimeMillis)
    if (change.anew) {
      yield* quiet("Deleted", id, store.delete(id))
      if (left <= 0) return expired
      return (yield* create(change, session, left, target)) ? stored : dropped("conflict")
    }
    if (left <= 0 && change.ttl === "exact") {
      yield* endNow(change, session, target)
      return expired
    }
    if (!change.wrote && moved !== "taken") {
      const there = yield* touch(change, left, store)
      if (there) return touched
      if (left <= 0) return expired
      return dropped(moved === "gone" ? "deleted" : "absent")
    }
    return yield* write(change, session, left, moved, target, rounds)
  })

type Moved = "nothing" | "moved" | "taken" | "gone"

/** Does the rotation of a session whose old id the store may have: with what others made of it meanwhile. */
const move = ({ id, origins }: Change, { quiet, store }: Target): Step<Moved> =>
  Effect.gen(function* () {
    let result: Moved = "nothing"
    for (const origin of origins) {
      const rotated = yield* Effect.either(quiet("Rotated", origin, store.rotate(origin, id)))
      if (Either.isRight(rotated)) {
        if (Option.isSome(rotated.right)) return "moved"
      } else if (rotated.left.reason === "SessionExists") return "taken"
      else if (rotated.left.reason === "SessionGone") result = "gone"
      else return yield* rotated.left
    }
    return result
  })

/** Prolongs a session that was only read and moved; says whether it is there. */
const touch = ({ id, ttl }: Change, left: number, store: SessionStore.Service): Step<boolean> => {
  if (left <= 0 || ttl === "kept") return store.exists(id)
  return ttl === "exact" ? Effect.map(store.getAndTouch(id, left), Option.isSome) : store.extendTtl(id, left)
}

/** Whether what the store has is what this process knew, or wrote. */
const isOurs = (change: Change, current: SessionStore.Session, isAbsolute: boolean): boolean =>
  [change.base, ...change.maybe].some((json) => {
    const session = sessionIn(json)
    return session !== undefined && same(session, current, isAbsolute)
  })

/** Ends a session whose time ran out here, where the store still has it as it was. */
const endNow = (change: Change, session: SessionStore.Session, { isAbsolute, store }: Target): Step<void> =>
  change.base === undefined && change.maybe.length === 0
    ? Effect.void
    : Effect.catchIf(
        Effect.asVoid(
          store.update(
            change.id,
            // another object is written, with the shortest time there is
            (current) => (isOurs(change, current, isAbsolute) ? { ...session } : current),
            { ttl: 1 }
          )
        ),
        (error) => error.reason === "SessionGone",
        () => Effect.void
      )

const create = ({ id }: Change, session: SessionStore.Session, left: number, { quiet, store }: Target): Step<boolean> =>
  quiet("Created", id, store.create(id, session, { ttl: left }))

/** Writes a session in place of what this process knew; anything else that is there is a conflict. */
const write = (
  change: Change,
  session: SessionStore.Session,
  left: number,
  moved: Moved,
  target: Target,
  round: number
): Step<Result> =>
  Effect.gen(function* () {
    const { id } = change
    const { isAbsolute, resolve, store } = target
    const decision: { is: "ours" | "merged" | "theirs" } = { is: "theirs" }
    const updated = yield* Effect.either(
      store.update(
        id,
        (current) => {
          if (isOurs(change, current, isAbsolute)) {
            decision.is = "ours"
            // it is there already, as it is to be
            return change.ttl !== "exact" && same(session, current, isAbsolute) ? current : session
          }
          const base = Option.fromNullable(sessionIn(change.base))
          const resolved = resolve?.({ id, kept: session, stored: current, base })
          decision.is = resolved === undefined || resolved === current ? "theirs" : "merged"
          return resolved ?? current
        },
        change.ttl === "exact" ? { ttl: left } : {}
      )
    )
    if (Either.isLeft(updated)) {
      if (updated.left.reason !== "SessionGone") return yield* updated.left
      // a tombstone can be our own only where this process deleted the id, and nothing was sent since
      if (!change.buried || change.maybe.length > 0) return dropped("deleted")
    } else if (Option.isSome(updated.right)) {
      if (decision.is === "theirs") return dropped("conflict")
      if (change.ttl === "longer" && left > 0) yield* store.extendTtl(id, left)
      return decision.is === "ours" ? stored : merged
    } else {
      if (left <= 0) return expired
      if (change.base !== undefined) return dropped(moved === "gone" ? "deleted" : "absent")
      if (moved === "gone") return dropped("deleted")
      // it may have been written and be gone by now: for as long as a tombstone would have said so
      const now = yield* Clock.currentTimeMillis
      if (change.maybe.length > 0 && now - change.sentAt >= target.tombstone) return dropped("uncertain")
    }
    if (left <= 0) return expired
    if (yield* create(change, session, left, target)) return stored
    return round > 1 ? yield* write(change, session, left, moved, target, round - 1) : dropped("conflict")
  })
