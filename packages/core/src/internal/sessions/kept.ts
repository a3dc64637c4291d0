/**
 * What a process knows of sessions while their store is away: what it saw of them last, and the changes that are kept
 * until the store is back. It is the backend of a session store of its own, so that the rules are the same as ever.
 */
import * as Clock from "effect/Clock"
import type * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as SessionStore from "../../state/SessionStore.ts"
import * as Instant from "../instant.ts"
import * as PlainJson from "../plainJson.ts"

/** What a process knows of one session. */
export interface Seen {
  readonly id: string
  /** The session; undefined where there is none, because this process deleted it. */
  readonly json: string | undefined
  readonly owner: string | undefined
  /** Until when it lives, if that is known: another process may have given it its time. */
  readonly expiresAt: number | undefined
  /** Until when a deletion by this process keeps the id from being written. */
  readonly goneUntil: number
  readonly seenAt: number
  /** The place of its last write by this process among all writes. */
  readonly place: number
}

/** A change that is kept. */
export interface Change {
  readonly id: string
  /** The session as it is now; undefined where it was deleted. */
  json: string | undefined
  owner: string | undefined
  /** When it became its owner's, as a place in a row. */
  turn: number
  expiresAt: number
  /** Whether that is the store's time as well, or a guess. */
  isLifeKnown: boolean
  goneUntil: number
  /** What the store had of it before, as far as this process knows. */
  base: string | undefined
  /** Texts that were sent and may have been written. */
  maybe: ReadonlyArray<string>
  /** When the first of them was sent. */
  sentAt: number
  /** Ids from which it was moved, the latest first: they may have it still. */
  origins: ReadonlyArray<string>
  /** The text is to be written, not just a time to live. */
  wrote: boolean
  /** How the time to live is to be changed. */
  ttl: "kept" | "longer" | "exact"
  /** It was deleted and made anew: what the store has of it is to die first. */
  anew: boolean
  /** This process deleted the id before, so that a tombstone can be its own. */
  buried: boolean
  /** When the store said last what it has. */
  readonly seenAt: number
  attempts: number
  revision: number
  /** Done when the replay that is under way has ended. */
  gate: Deferred.Deferred<void> | undefined
}

export interface Settings {
  readonly absolute: number | undefined
  readonly defaultTtl: number
  readonly tombstone: number
  readonly limit: number
  readonly evicts: boolean
  /** Changes at most. */
  readonly capacity: number
  /** Bytes of ids and texts at most, of changes and of what was seen. */
  readonly maxBytes: number
  /** Sessions that were seen, at most, and for how long they count. */
  readonly recent: number
  readonly recentFor: number
  /** Whether a session of which nothing is known is none, or a failure. */
  readonly unknown: "none" | "fail"
}

/** The words of the failures that this module makes. */
export const unknownSession = "the store is away, and this process does not know the session"
export const full = "the store is away, and as many changes are kept for it as are allowed"

const failure = (method: string, description: string) =>
  new SessionStore.SessionStoreError({ reason: "Unavailable", method, description, outcome: "not-done" })

const refused = (method: string): Effect.Effect<never, SessionStore.SessionStoreError> =>
  Effect.fail(failure(method, full))

/** What one entry takes besides its texts, about. */
const overhead = 256

const size = (id: string, json: string | undefined): number => overhead + 2 * (id.length + (json?.length ?? 0))

const sizeOf = (change: Change): number =>
  size(change.id, change.json) +
  2 * (change.base?.length ?? 0) +
  change.maybe.reduce((sum, text) => sum + 2 * text.length, 0) +
  change.origins.reduce((sum, id) => sum + 2 * id.length, 0)

/** How many texts that may have been written are remembered of a session. */
const maybes = 4

export type Kept = ReturnType<typeof make>

/** Plain mutable state in one closure: it is asked on every operation, and nothing in it waits. */
export const make = (settings: Settings) => {
  const { absolute, capacity, defaultTtl, evicts, limit, maxBytes, recentFor, tombstone } = settings
  const seen = new Map<string, Seen>()
  const changes = new Map<string, Change>()
  const owners = new Map<string, Set<string>>()
  /** Owners that were signed out everywhere, with how often the store refused to do so. */
  const revoked = new Map<string, number>()
  let bytes = 0
  let seenBytes = 0
  let turn = 0
  let swept = Number.NEGATIVE_INFINITY
  /** Ids whose change came to be since somebody asked. */
  let begun = 0
  let expired = 0

  const own = (id: string, owner: string | undefined): void => {
    if (owner === undefined) return
    const ids = owners.get(owner)
    if (ids === undefined) owners.set(owner, new Set([id]))
    else ids.add(id)
  }
  const disown = (id: string, owner: string | undefined): void => {
    if (owner === undefined) return
    const ids = owners.get(owner)
    ids?.delete(id)
    if (ids?.size === 0) owners.delete(owner)
  }

  const forget = (id: string): Seen | undefined => {
    const one = seen.get(id)
    if (one === undefined) return undefined
    seen.delete(id)
    seenBytes -= size(id, one.json)
    disown(id, one.owner)
    return one
  }

  /** Gives up what was seen longest ago, until there is room. */
  const trim = (): void => {
    for (const oldest of seen.keys()) {
      if (seen.size <= settings.recent && bytes + seenBytes <= maxBytes) return
      forget(oldest)
    }
  }

  const remember = (one: Seen): void => {
    forget(one.id)
    if (changes.has(one.id)) return
    seen.set(one.id, one)
    seenBytes += size(one.id, one.json)
    own(one.id, one.owner)
    trim()
  }

  /** What was seen of a session, where that still counts. */
  const lookUp = (id: string, now: number): Seen | undefined => {
    const one = seen.get(id)
    if (one === undefined) return undefined
    const ends = one.json === undefined ? one.goneUntil : (one.expiresAt ?? Number.POSITIVE_INFINITY)
    if (ends > now && one.seenAt + recentFor > now) return one
    forget(id)
    return undefined
  }

  const lives = (change: Change, now: number): boolean => change.json !== undefined && change.expiresAt > now

  /** A session as it is now: undefined where there is none, and where nothing is known. */
  const textOf = (id: string, now: number): string | undefined => {
    const change = changes.get(id)
    if (change === undefined) return lookUp(id, now)?.json
    return lives(change, now) ? change.json : undefined
  }

  const isKnown = (id: string, now: number): boolean => changes.has(id) || lookUp(id, now) !== undefined

  const isGone = (id: string, now: number): boolean =>
    (changes.get(id)?.goneUntil ?? lookUp(id, now)?.goneUntil ?? 0) > now

  /** A change whose session's time ran out, and which leaves nothing to be done to the store. */
  const isOver = (change: Change, now: number): boolean =>
    change.json !== undefined &&
    change.expiresAt <= now &&
    change.gate === undefined &&
    !change.anew &&
    change.maybe.length === 0 &&
    change.origins.length === 0 &&
    (change.base === undefined || (change.ttl !== "exact" && !change.wrote))

  const sweep = (now: number): void => {
    if (swept + 1_000 > now && swept <= now) return
    swept = now
    for (const change of [...changes.values()]) {
      if (!isOver(change, now)) continue
      end(change)
      expired++
    }
  }

  const hasRoom = (slots: number, more: number, now: number): boolean => {
    const fits = () => changes.size + revoked.size + slots <= capacity && bytes + more <= maxBytes
    if (fits()) return true
    sweep(now)
    return fits()
  }

  const end = (change: Change): void => {
    if (changes.get(change.id) !== change) return
    changes.delete(change.id)
    bytes -= sizeOf(change)
    disown(change.id, change.owner)
  }

  /** The change of a session, begun with what was seen of it; undefined where there is no room for so many bytes more. */
  const begin = (id: string, more: number, now: number): Change | undefined => {
    const kept = changes.get(id)
    if (kept !== undefined) {
      if (more === 0) return kept
      return hasRoom(0, more, now) ? (changes.get(id) ?? begin(id, more, now)) : undefined
    }
    const one = lookUp(id, now)
    if (!hasRoom(1, more + 2 * size(id, one?.json), now)) return undefined
    forget(id)
    const change: Change = {
      id,
      json: one?.json,
      owner: one?.owner,
      turn: turn++,
      expiresAt: one?.expiresAt ?? now + defaultTtl,
      isLifeKnown: one?.expiresAt !== undefined,
      goneUntil: one?.goneUntil ?? 0,
      base: one?.json,
      maybe: [],
      sentAt: 0,
      origins: [],
      wrote: false,
      ttl: "kept",
      anew: false,
      buried: one !== undefined && one.json === undefined,
      seenAt: one?.seenAt ?? now,
      attempts: 0,
      revision: 0,
      gate: undefined
    }
    begun++
    changes.set(id, change)
    bytes += sizeOf(change)
    own(id, change.owner)
    trim()
    return change
  }

  const alter = (change: Change, fields: Partial<Change>): void => {
    bytes -= sizeOf(change)
    disown(change.id, change.owner)
    Object.assign(change, fields)
    change.revision++
    bytes += sizeOf(change)
    own(change.id, change.owner)
    trim()
  }

  /** What of a time to live is left before the absolute one is over: not more than nothing when it is. */
  const capped = (json: string, ttl: number, now: number): number => {
    if (absolute === undefined) return ttl
    const created = SessionStore.createdIn(json)
    return created === undefined ? Math.min(ttl, absolute) : Math.min(ttl, created + absolute - now)
  }

  /** Whether there is room for the deletion of all these, besides `more` bytes of another change. */
  const canBury = (ids: ReadonlyArray<string>, slots: number, more: number, now: number): boolean => {
    let [wanted, room] = [slots, more]
    for (const id of ids) {
      if (changes.has(id)) continue
      wanted++
      room += 2 * size(id, lookUp(id, now)?.json)
    }
    return hasRoom(wanted, room, now)
  }

  const bury = (id: string, now: number): boolean | undefined => {
    const was = textOf(id, now) !== undefined
    const change = begin(id, 0, now)
    if (change === undefined) return undefined
    alter(change, {
      json: undefined,
      owner: undefined,
      goneUntil: now + tombstone,
      wrote: true,
      ttl: "kept",
      buried: true
    })
    return was
  }

  /** Ends a session whose absolute time to live is over; undefined where there is no room to keep that. */
  const expire = (id: string, now: number): false | undefined => {
    const change = begin(id, 0, now)
    if (change === undefined) return undefined
    alter(change, { expiresAt: now, isLifeKnown: true, ttl: "exact" })
    return false
  }

  /** Prolongs a session; undefined where there is no room to keep that. */
  const prolong = (id: string, touch: SessionStore.Touch, now: number): boolean | undefined => {
    const json = textOf(id, now)
    if (json === undefined) return false
    const wanted = prolonged(id, json, touch, now)
    if (wanted === undefined) return true
    if (wanted <= 0) return expire(id, now)
    const change = begin(id, 0, now)
    if (change === undefined) return undefined
    alter(change, {
      expiresAt: now + wanted,
      isLifeKnown: change.isLifeKnown || touch.exact,
      ttl: touch.exact || change.ttl === "exact" ? "exact" : "longer"
    })
    return true
  }

  /** How long a session lives after a touch; undefined where that changes nothing. */
  const prolonged = (
    id: string,
    json: string,
    { exact, keep, ttl }: SessionStore.Touch,
    now: number
  ): number | undefined => {
    const expiresAt = changes.get(id)?.expiresAt ?? seen.get(id)?.expiresAt
    const left = expiresAt === undefined ? 0 : expiresAt - now
    const cap = capped(json, ttl, now)
    if (cap <= 0) return cap
    const wanted = exact ? cap : Math.max(left, cap)
    return left >= keep && left <= wanted ? undefined : wanted
  }

  const ownedBy = (owner: string, now: number): ReadonlyArray<string> =>
    [...(owners.get(owner) ?? [])].filter((id) => textOf(id, now) !== undefined)

  /**
   * Who is to make room for one more session of an owner, among those that are known: nobody dies yet. `limit` where there
   * is no room to be had.
   */
  const admit = (id: string, owner: string | undefined, now: number): ReadonlyArray<string> | "limit" => {
    if (owner === undefined || limit === Number.POSITIVE_INFINITY) return noIds
    const others = ownedBy(owner, now).filter((other) => other !== id)
    if (others.length < limit) return noIds
    if (!evicts) return "limit"
    others.sort((a, b) => turnOf(a) - turnOf(b))
    return others.slice(0, others.length - limit + 1)
  }
  /** The change of a session for which others give way: all of it, or nothing and undefined where there is no room. */
  const beginOver = (evicted: ReadonlyArray<string>, id: string, json: string, now: number): Change | undefined => {
    if (evicted.length > 0) {
      const own = 2 * json.length + (changes.has(id) ? 0 : 2 * size(id, lookUp(id, now)?.json))
      if (!canBury(evicted, changes.has(id) ? 0 : 1, own, now)) return undefined
    }
    const change = begin(id, 2 * json.length, now)
    if (change !== undefined) for (const other of evicted) bury(other, now)
    return change
  }
  const turnOf = (id: string): number => changes.get(id)?.turn ?? -1

  const write = (
    { id, json, owner, stamped, ttl }: SessionStore.Entry,
    now: number
  ): SessionStore.Written | undefined => {
    const old = textOf(id, now)
    let text = json
    if (absolute !== undefined) {
      const created = old === undefined ? undefined : SessionStore.createdIn(old)
      text = SessionStore.withCreated(
        json,
        created ?? (stamped ? now : Math.min(now, SessionStore.createdIn(json) ?? now))
      )
    }
    const cap = capped(text, ttl, now)
    if (cap <= 0) return { _tag: "Over" }
    if (!hasRoom(changes.has(id) ? 0 : 1, size(id, text), now)) return undefined
    const stays = old !== undefined && ownerBy(id) === owner
    const evicted = stays ? noIds : admit(id, owner, now)
    if (evicted === "limit") return { _tag: "Limit" }
    const change = beginOver(evicted, id, text, now)
    if (change === undefined) return undefined
    alter(change, {
      json: text,
      owner,
      turn: stays ? change.turn : turn++,
      expiresAt: now + cap,
      goneUntil: 0,
      wrote: true,
      ttl: "exact",
      isLifeKnown: true,
      ...renewed(change)
    })
    return { _tag: "Written", isNew: old === undefined, evicted }
  }
  /** A session that was deleted here is deleted there before another takes its id, whatever it has become there. */
  const renewed = (change: Change): Partial<Change> =>
    change.json === undefined && change.wrote
      ? { anew: true, base: undefined, maybe: noIds, origins: noIds }
      : { anew: change.anew }

  const ownerBy = (id: string): string | undefined => changes.get(id)?.owner ?? seen.get(id)?.owner

  const atNow = <A>(f: (now: number) => A): Effect.Effect<A> => Effect.map(Clock.currentTimeMillis, f)
  const orRefused = <A>(
    method: string,
    f: (now: number) => A | undefined
  ): Effect.Effect<A, SessionStore.SessionStoreError> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const result = f(now)
      return result === undefined ? refused(method) : Effect.succeed(result)
    })
  const known = <A>(
    method: string,
    id: string,
    f: (now: number) => Effect.Effect<A, SessionStore.SessionStoreError>
  ): Effect.Effect<A, SessionStore.SessionStoreError> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) =>
      settings.unknown === "fail" && !isKnown(id, now) ? Effect.fail(failure(method, unknownSession)) : f(now)
    )
  const orFull = <A>(method: string, result: A | undefined): Effect.Effect<A, SessionStore.SessionStoreError> =>
    result === undefined ? refused(method) : Effect.succeed(result)

  const backend: SessionStore.Backend = {
    get: (id) => known("get", id, (now) => Effect.succeed(textOf(id, now))),
    getAndTouch: (id, touch) =>
      known("getAndTouch", id, (now) =>
        Effect.map(orFull("getAndTouch", prolong(id, touch, now)), (there) => (there ? textOf(id, now) : undefined))
      ),
    set: (entry) =>
      orRefused("set", (now): SessionStore.Written | undefined =>
        isGone(entry.id, now) ? { _tag: "Gone" } : write(entry, now)
      ),
    create: (entry) =>
      orRefused("create", (now): SessionStore.Written | undefined =>
        textOf(entry.id, now) !== undefined ? { _tag: "Exists" } : write(entry, now)
      ),
    replace: ({ expected, id, json, owner, ttl }) =>
      orRefused("update", (now): SessionStore.Replaced | undefined => {
        const current = textOf(id, now)
        if (current === undefined) return { _tag: isGone(id, now) ? "Gone" : "Absent" }
        if (current !== expected) return { _tag: "Changed", current }
        const expiresAt = changes.get(id)?.expiresAt ?? seen.get(id)?.expiresAt ?? now + defaultTtl
        const cap = capped(json, ttl ?? expiresAt - now, now)
        if (cap <= 0) return expire(id, now) === undefined ? undefined : { _tag: "Absent" }
        if (!hasRoom(changes.has(id) ? 0 : 1, size(id, json), now)) return undefined
        const stays = ownerBy(id) === owner
        const evicted = stays ? noIds : admit(id, owner, now)
        if (evicted === "limit") return { _tag: "Limit" }
        const change = beginOver(evicted, id, json, now)
        if (change === undefined) return undefined
        alter(change, {
          json,
          owner,
          turn: stays ? change.turn : turn++,
          expiresAt: now + cap,
          isLifeKnown: change.isLifeKnown || ttl !== undefined,
          wrote: true,
          ttl: ttl === undefined ? change.ttl : "exact"
        })
        return { _tag: "Done", evicted }
      }),
    isGone: (id) => atNow((now) => isGone(id, now)),
    delete: (ids, _, method) =>
      orRefused(method, (now): ReadonlyArray<boolean> | undefined => {
        if (!canBury(ids, 0, 0, now)) return undefined
        const were: Array<boolean> = []
        for (const id of ids) {
          const was = bury(id, now)
          if (was === undefined) return undefined
          were.push(was)
        }
        return were
      }),
    exists: (id) => known("exists", id, (now) => Effect.succeed(textOf(id, now) !== undefined)),
    extendTtl: (id, ttl, exact) =>
      known("extendTtl", id, (now) => orFull("extendTtl", prolong(id, { ttl, exact, keep: ttl }, now))),
    rotate: ({ expected, from, to }) =>
      orRefused("rotate", (now): SessionStore.Rotated | undefined => {
        const current = textOf(from, now)
        if (current === undefined) return { _tag: isGone(from, now) ? "Gone" : "Absent" }
        if (current !== expected) return { _tag: "Changed", current }
        if (textOf(to, now) !== undefined) return { _tag: "Taken" }
        if (!hasRoom(2, 2 * size(from, current), now)) return undefined
        const old = begin(from, 0, now)
        const target = old === undefined ? undefined : begin(to, 2 * current.length, now)
        if (old === undefined || target === undefined) return undefined
        const { base, expiresAt, isLifeKnown, maybe, origins, owner, sentAt, ttl, wrote } = old
        // of what was never there nothing is to be moved
        const moved = old.anew || (base === undefined && maybe.length === 0 && origins.length === 0) ? [] : [from]
        alter(target, {
          ...renewed(target),
          json: current,
          owner,
          turn: old.turn,
          expiresAt,
          isLifeKnown,
          goneUntil: 0,
          base: old.anew ? undefined : base,
          maybe: old.anew ? noIds : maybe,
          sentAt,
          origins: old.anew ? noIds : [...moved, ...origins],
          wrote: wrote || moved.length === 0,
          ttl: moved.length === 0 ? "exact" : ttl
        })
        bury(from, now)
        return { _tag: "Done" }
      }),
    owned: (owner) =>
      Effect.flatMap(
        Clock.currentTimeMillis,
        (now): Effect.Effect<ReadonlyArray<readonly [string, string | undefined]>, SessionStore.SessionStoreError> =>
          settings.unknown === "fail"
            ? Effect.fail(failure("sessionsOf", "the store is away, and alone knows all sessions of the owner"))
            : Effect.succeed(ownedBy(owner, now).map((id) => [id, textOf(id, now)] as const))
      ),
    // the index here is exact
    disown: () => Effect.void,
    // done to the store alone
    cleanUp: () => Effect.succeed({ scanned: 0, corrupt: 0, orphaned: 0, immortal: 0 })
  }

  return {
    backend,
    changes,
    revoked,
    isKnown,
    ownedBy,
    /** Whether a session is changed here that this process knew, or may have written itself. */
    livesOn: (id: string): boolean => {
      const change = changes.get(id)
      if (change?.json === undefined) return false
      return change.anew || change.base !== undefined || change.maybe.length > 0 || change.origins.length > 0
    },
    /** The place of now among all writes of this process. */
    place: (): number => turn,
    /** Whether this process has written the session since then. */
    wroteSince: (id: string, place: number): boolean => (seen.get(id)?.place ?? -1) >= place,
    pending: (): number => changes.size + revoked.size,
    size: () => ({ kept: changes.size + revoked.size, bytes: bytes + seenBytes, remembered: seen.size }),

    /** A session was read from the store. `expiresAt` undefined leaves what is known of its time. */
    saw: (id: string, session: SessionStore.Session, expiresAt: number | undefined, now: number): void => {
      if (settings.recent === 0 || changes.has(id)) return
      const before = seen.get(id)
      remember({
        id,
        json: JSON.stringify(session),
        owner: ownerOf(session),
        expiresAt: expiresAt ?? before?.expiresAt,
        goneUntil: 0,
        seenAt: now,
        place: before?.place ?? -1
      })
    },
    /** A session was written to the store. `before` is what was known of it; `ttl` undefined leaves its time. */
    wrote: (
      id: string,
      session: SessionStore.Session,
      before: Seen | undefined,
      ttl: number | undefined,
      now: number
    ): void => {
      const place = turn++
      if (settings.recent === 0 || changes.has(id)) return
      let text = session
      let life = ttl
      if (absolute !== undefined) {
        const first = before?.json === undefined ? undefined : SessionStore.createdIn(before.json)
        const created = first ?? createdOf(session) ?? now
        const { created_at: _, ...rest } = session
        text = { created_at: new Date(created).toISOString(), ...rest }
        life = ttl === undefined ? undefined : Math.min(ttl, created + absolute - now)
      }
      remember({
        id,
        json: JSON.stringify(text),
        owner: ownerOf(session),
        expiresAt: life === undefined ? before?.expiresAt : now + life,
        goneUntil: 0,
        seenAt: now,
        place
      })
    },
    /** A session was moved in the store. */
    moved: (from: Seen | undefined, to: string, now: number): void => {
      if (settings.recent === 0 || from?.json === undefined || changes.has(to)) return
      remember({ ...from, id: to, seenAt: now, place: turn++ })
    },
    /** A session's time was prolonged in the store. */
    prolonged: (id: string, ttl: number, now: number): void => {
      const one = lookUp(id, now)
      if (one?.json === undefined || one.expiresAt === undefined) return
      remember({ ...one, expiresAt: Math.max(one.expiresAt, now + capped(one.json, ttl, now)) })
    },
    /** Until when a session lives that was touched in the store; undefined where that is not known. */
    expiryAfter: (
      id: string,
      session: SessionStore.Session,
      touch: SessionStore.Touch,
      now: number
    ): number | undefined => {
      const known = lookUp(id, now)?.expiresAt
      if (known === undefined && !touch.exact) return undefined
      const wanted = prolonged(id, absolute === undefined ? "" : JSON.stringify(session), touch, now)
      return wanted === undefined ? known : now + wanted
    },
    /** The store says that there is no such session. */
    missed: (id: string, now: number): void => {
      if (lookUp(id, now)?.json !== undefined) forget(id)
    },
    /** This process deleted a session in the store. */
    deleted: (id: string, now: number): void => {
      const place = turn++
      if (settings.recent === 0) return
      remember({
        id,
        json: undefined,
        owner: undefined,
        expiresAt: undefined,
        goneUntil: now + tombstone,
        seenAt: now,
        place
      })
    },
    /** Takes what was seen out, for a write is on its way: should nobody hear how it ended, nothing is known. */
    take: (id: string): Seen | undefined => forget(id),
    putBack: (one: Seen | undefined): void => {
      if (one !== undefined && !seen.has(one.id)) remember(one)
    },
    /** A text was sent that may have been written. */
    sent: (id: string, json: string, now: number): void => {
      const change = changes.get(id)
      if (change === undefined) return
      alter(change, {
        maybe: [json, ...change.maybe.filter((one) => one !== json)].slice(0, maybes),
        sentAt: change.maybe.length === 0 ? now : change.sentAt
      })
    },
    /** A change that was made in the store, as far as anybody knows: `base` was there and `json` was to take its place. */
    adopt: (
      id: string,
      base: SessionStore.Session,
      session: SessionStore.Session,
      ttl: number | undefined,
      expiresAt: number | undefined,
      now: number
    ): boolean => {
      const json = JSON.stringify(session)
      remember({
        id,
        json: JSON.stringify(base),
        owner: ownerOf(base),
        expiresAt,
        goneUntil: 0,
        seenAt: now,
        place: turn++
      })
      if (!hasRoom(1, 8 * json.length, now)) return false
      const change = begin(id, 4 * json.length, now)
      if (change === undefined) return false
      alter(change, {
        json,
        owner: ownerOf(session),
        turn: turn++,
        expiresAt: ttl === undefined ? change.expiresAt : now + capped(json, ttl, now),
        isLifeKnown: change.isLifeKnown || ttl !== undefined,
        maybe: [json],
        sentAt: now,
        wrote: true,
        ttl: ttl === undefined ? "kept" : "exact"
      })
      return true
    },
    /** Keeps that an owner is to be signed out; false where there is no room for that. */
    revoke: (owner: string, now: number): boolean => {
      if (revoked.has(owner)) return true
      if (!hasRoom(1, size(owner, undefined), now)) return false
      revoked.set(owner, 0)
      begun++
      return true
    },
    alter,
    /**
     * A change is over. What is known then: that the store has the session as it is here, that it has it and maybe
     * another text (`touched`), or nothing.
     */
    settle: (change: Change, known: "stored" | "touched" | "nothing", now: number): void => {
      end(change)
      if (known === "nothing") return
      remember({
        id: change.id,
        json: change.json,
        owner: change.owner,
        expiresAt: change.isLifeKnown ? change.expiresAt : undefined,
        // it died in the store just now
        goneUntil: change.json === undefined ? now + tombstone : 0,
        seenAt: known === "stored" ? now : change.seenAt,
        place: turn++
      })
    },
    /** How many changes came to be, and how many ended because their session did, since this was last asked. */
    tally: (): { readonly begun: number; readonly expired: number } => {
      const counts = { begun, expired }
      begun = 0
      expired = 0
      return counts
    }
  }
}

const noIds: ReadonlyArray<string> = []

const ownerOf = (session: SessionStore.Session): string | undefined => {
  const owner = session["user_id"]
  if (typeof owner === "number") return String(owner)
  return typeof owner === "string" && owner !== "" ? owner : undefined
}

const createdOf = (session: SessionStore.Session): number | undefined => {
  const at = session["created_at"]
  return typeof at === "string" ? Instant.parse(at) : undefined
}

/** Whether two sessions are the same, whatever the order of their fields; `created_at` is the store's business. */
export const same = (
  a: SessionStore.Json | undefined,
  b: SessionStore.Json | undefined,
  absolute: boolean
): boolean => {
  if (absolute && PlainJson.isObject(a) && PlainJson.isObject(b)) {
    const { created_at: _a, ...restOfA } = a
    const { created_at: _b, ...restOfB } = b
    return equal(restOfA, restOfB)
  }
  return equal(a, b)
}

const equal = (a: SessionStore.Json | undefined, b: SessionStore.Json | undefined): boolean => {
  if (a === b) return true
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false
  if (isList(a) || isList(b)) {
    return isList(a) && isList(b) && a.length === b.length && a.every((item, index) => equal(item, b[index]))
  }
  const keys = Object.keys(a)
  return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && equal(a[key], b[key]))
}

const isList = (value: SessionStore.Json): value is ReadonlyArray<SessionStore.Json> => Array.isArray(value)
