/**
 * The backend inside this process, by `Clock`.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { ExpiringMap } from "../expiringMap.ts"
import * as Bus from "./bus.ts"
import type {
  Backend,
  Beat,
  Member,
  RetentionSettings,
  Service,
  StoredEntry,
  StoredLetter,
  TopicSettings
} from "./model.ts"
import * as Topics from "./topics.ts"

interface Group {
  /** The last position that was handed out. */
  last: string
  readonly pending: Map<string, number>
  letters: Array<StoredLetter>
}

interface Lease {
  readonly token: string
  readonly consumer: string
  readonly until: number
}

interface Partition {
  entries: Array<StoredEntry>
  /** The newest position that there has ever been. */
  end: string
  readonly ids: ExpiringMap<string>
  readonly groups: Map<string, Group>
  /** By group. */
  readonly leases: Map<string, Lease>
  lastLetter: string
  touched: number
}

interface Kept {
  readonly partitions: ReadonlyArray<Partition>
  /** Until when each consumer of a group lives. */
  readonly members: Map<string, Map<string, number>>
  readonly listeners: Set<(what: number | "members" | "all") => void>
}

/** Ids of a partition that are known at the same time; beyond that the oldest are forgotten. */
const mostIds = 100_000

export const make: Effect.Effect<Service> = Effect.sync(() => Bus.make(backend()))

export const backend = (): Backend => {
  const topics = new Map<string, Kept>()

  const emptyPartition = (): Partition => ({
    entries: [],
    end: "0-0",
    ids: new ExpiringMap(mostIds),
    groups: new Map(),
    leases: new Map(),
    lastLetter: "0-0",
    touched: 0
  })

  const kept = ({ name, partitions }: TopicSettings): Kept => {
    let one = topics.get(name)
    if (one === undefined) {
      one = { partitions: Array.from({ length: partitions }, emptyPartition), members: new Map(), listeners: new Set() }
      topics.set(name, one)
    }
    return one
  }

  const ring = (topic: TopicSettings, what: number | "members" | "all"): void => {
    for (const listener of [...kept(topic).listeners]) listener(what)
  }

  /** The partition now. One that nobody has touched for too long is empty again. */
  const at = <A>(topic: TopicSettings, partition: number, f: (one: Partition, now: number) => A): Effect.Effect<A> =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      const one = kept(topic).partitions[partition] ?? emptyPartition()
      if (one.touched + topic.forgetAfter <= now) {
        one.entries = []
        one.groups.clear()
      }
      return f(one, now)
    })

  const everywhere = <A>(topic: TopicSettings, f: (one: Partition, partition: number, now: number) => A) =>
    Effect.forEach(kept(topic).partitions, (_, partition) => at(topic, partition, (one, now) => f(one, partition, now)))

  const newGroup = (last: string): Group => ({ last, pending: new Map(), letters: [] })

  const next = (before: string, now: number): string =>
    Topics.timeOf(before) >= now ? Topics.successor(before) : `${now}-0`

  /** The index of the first entry after a position. */
  const indexAfter = (entries: ReadonlyArray<StoredEntry>, position: string): number => {
    let low = 0
    let high = entries.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const entry = entries[middle]
      if (entry !== undefined && Topics.compare(entry.position, position) <= 0) low = middle + 1
      else high = middle
    }
    return low
  }

  const find = (one: Partition, position: string): StoredEntry | undefined => {
    const entry = one.entries[indexAfter(one.entries, position) - 1]
    return entry?.position === position ? entry : undefined
  }

  const trim = (one: Partition, { maxAge, maxLength, unacknowledged }: RetentionSettings, now: number): number => {
    let count = Math.max(0, one.entries.length - maxLength)
    if (maxAge !== undefined) {
      count = Math.max(count, indexAfter(one.entries, `${Math.max(0, now - maxAge)}-0`))
    }
    if (unacknowledged === "keep") {
      for (const group of one.groups.values()) {
        let seen = indexAfter(one.entries, group.last)
        for (const position of group.pending.keys()) seen = Math.min(seen, indexAfter(one.entries, position) - 1)
        count = Math.min(count, Math.max(0, seen))
      }
    }
    if (count > 0) {
      const gone = one.entries.splice(0, count)
      for (const group of one.groups.values()) for (const { position } of gone) group.pending.delete(position)
    }
    return count
  }

  const leaseOf = (one: Partition, group: string, now: number): Lease | undefined => {
    const lease = one.leases.get(group)
    return lease !== undefined && lease.until > now ? lease : undefined
  }

  const isHeld = (one: Partition, { group, token }: Member, now: number): boolean =>
    leaseOf(one, group, now)?.token === token

  return {
    declare: (topic) => Effect.sync(() => kept(topic).partitions.length),
    append: (topic, partition, entries) =>
      at(topic, partition, (one, now) => {
        one.touched = now
        const appended = entries.map((entry) => {
          const known = entry.unique ? one.ids.get(entry.id, now) : undefined
          if (known !== undefined) return { position: known, duplicate: true }
          const position = next(one.end, now)
          one.end = position
          one.entries.push({
            position,
            id: entry.id,
            key: entry.key,
            headers: entry.headers,
            data: entry.data,
            publishedAt: undefined,
            only: undefined
          })
          if (entry.unique) one.ids.set(entry.id, position, now + topic.deduplicateFor, now)
          return { position, duplicate: false }
        })
        trim(one, topic.retention, now)
        ring(topic, partition)
        return appended
      }),
    open: (topic, group, starts) =>
      Effect.asVoid(
        everywhere(topic, (one, partition, now) => {
          const start = starts[partition]
          if (start === undefined) return
          one.touched = now
          if (one.groups.has(group)) return
          one.groups.set(group, newGroup(start === "$" || Topics.compare(start, one.end) > 0 ? one.end : start))
        })
      ),
    beat: (topic, member, ttl, held) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const { consumer, group, token } = member
        const { members } = kept(topic)
        const ofGroup = members.get(group) ?? new Map<string, number>()
        members.set(group, ofGroup)
        for (const [other, until] of ofGroup) if (until <= now) ofGroup.delete(other)
        const isNew = !ofGroup.has(token)
        ofGroup.set(token, now + ttl)
        const beat = { kept: [] as Array<number>, lost: [] as Array<number>, free: [] as Array<number> }
        return Effect.map(
          everywhere(topic, (one, partition) => {
            if (held.includes(partition)) {
              if (!isHeld(one, member, now)) {
                beat.lost.push(partition)
                return
              }
              one.touched = now
              one.leases.set(group, { token, consumer, until: now + ttl })
              trim(one, topic.retention, now)
              beat.kept.push(partition)
            } else if (leaseOf(one, group, now) === undefined) beat.free.push(partition)
          }),
          (): Beat => {
            if (isNew) ring(topic, "members")
            return { members: [...ofGroup.keys()], ...beat }
          }
        )
      }),
    acquire: (topic, { consumer, group, token }, ttl, partition) =>
      at(topic, partition, (one, now) => {
        if (leaseOf(one, group, now) !== undefined) return false
        one.touched = now
        one.leases.set(group, { token, consumer, until: now + ttl })
        return true
      }),
    release: (topic, member, partition, done, returned, unseen) =>
      at(topic, partition, (one, now) => {
        const state = one.groups.get(member.group)
        for (const position of done) state?.pending.delete(position)
        if (!isHeld(one, member, now)) return
        for (const { deliveries, position } of returned) {
          if (state?.pending.has(position) === true) state.pending.set(position, deliveries)
        }
        if (unseen !== undefined) {
          for (const position of state?.pending.keys() ?? []) {
            if (Topics.compare(position, unseen) > 0) state?.pending.set(position, 0)
          }
        }
        one.leases.delete(member.group)
        ring(topic, "members")
      }),
    leave: (topic, { group, token }) =>
      Effect.sync(() => {
        kept(topic).members.get(group)?.delete(token)
        ring(topic, "members")
      }),
    adopt: (topic, member, partition, from, count) =>
      at(topic, partition, (one, now) => {
        if (!isHeld(one, member, now)) return "lost"
        const state = one.groups.get(member.group)
        if (state === undefined) return "no-group"
        const positions = [...state.pending.keys()].filter((position) => Topics.compare(position, from) >= 0)
        positions.sort(Topics.compare)
        const entries = positions.slice(0, count).flatMap((position) => {
          const entry = find(one, position)
          return entry === undefined ? [] : [{ entry, deliveries: state.pending.get(position) ?? 1 }]
        })
        return { value: { entries, next: positions[count] } }
      }),
    read: (topic, member, partition, count) =>
      at(topic, partition, (one, now) => {
        if (!isHeld(one, member, now)) return "lost"
        const state = one.groups.get(member.group)
        if (state === undefined) return "no-group"
        one.touched = now
        const begin = indexAfter(one.entries, state.last)
        const entries = one.entries.slice(begin, begin + count)
        for (const { position } of entries) {
          state.last = position
          state.pending.set(position, 1)
        }
        return { value: entries }
      }),
    begin: (topic, member, partition, position, deliveries) =>
      at(topic, partition, (one, now) => {
        if (!isHeld(one, member, now)) return "lost"
        const state = one.groups.get(member.group)
        if (state === undefined) return "no-group"
        if (state.pending.has(position)) state.pending.set(position, deliveries)
        return { value: undefined }
      }),
    acknowledge: (topic, group, partition, positions) =>
      at(topic, partition, (one) => {
        const state = one.groups.get(group)
        for (const position of positions) state?.pending.delete(position)
      }),
    bury: (topic, group, partition, letter) =>
      at(topic, partition, (one, now) => {
        const state = one.groups.get(group)
        if (state === undefined || !state.pending.delete(letter.entry.position)) return
        one.lastLetter = next(one.lastLetter, now)
        state.letters.push({ ...letter, letter: one.lastLetter, deadAt: now })
        if (state.letters.length > topic.maxDeadLetters) state.letters.shift()
      }),
    range: (topic, partition, after, count) =>
      at(topic, partition, (one) => {
        const begin = indexAfter(one.entries, after)
        return one.entries.slice(begin, begin + count)
      }),
    ends: (topic) => everywhere(topic, (one) => one.end),
    letters: (topic, group, partition, after, count) =>
      at(topic, partition, (one) =>
        (one.groups.get(group)?.letters ?? []).filter(({ letter }) => Topics.compare(letter, after) > 0).slice(0, count)
      ),
    replay: (topic, group, partition, letters) =>
      at(topic, partition, (one, now) => {
        const state = one.groups.get(group)
        if (state === undefined) return 0
        const chosen = state.letters.filter(({ letter }) => letters.includes(letter))
        state.letters = state.letters.filter(({ letter }) => !letters.includes(letter))
        for (const { entry } of chosen) {
          one.end = next(one.end, now)
          one.entries.push({
            ...entry,
            position: one.end,
            publishedAt: entry.publishedAt ?? Topics.timeOf(entry.position),
            only: group
          })
        }
        if (chosen.length > 0) ring(topic, partition)
        return chosen.length
      }),
    drop: (topic, group, partition, letters) =>
      at(topic, partition, (one) => {
        const state = one.groups.get(group)
        if (state === undefined) return 0
        const before = state.letters.length
        state.letters = state.letters.filter(({ letter }) => !letters.includes(letter))
        return before - state.letters.length
      }),
    seek: (topic, group, starts) =>
      Effect.map(
        everywhere(topic, (one, partition, now) => {
          one.touched = now
          const start = starts[partition] ?? "0-0"
          const last = start === "$" || Topics.compare(start, one.end) > 0 ? one.end : start
          const state = one.groups.get(group)
          if (state === undefined) one.groups.set(group, newGroup(last))
          else state.last = last
        }),
        () => ring(topic, "all")
      ),
    groups: (topic) =>
      Effect.map(
        everywhere(topic, (one) => [...one.groups.keys()]),
        (all) => [...new Set(all.flat())].sort()
      ),
    stats: (topic, group) =>
      everywhere(topic, (one, partition, now) => {
        const state = one.groups.get(group)
        return {
          partition,
          length: one.entries.length,
          lag: one.entries.length - (state === undefined ? 0 : indexAfter(one.entries, state.last)),
          pending: state?.pending.size ?? 0,
          deadLetters: state?.letters.length ?? 0,
          consumer: leaseOf(one, group, now)?.consumer
        }
      }),
    removeGroup: (topic, group) =>
      Effect.asVoid(
        Effect.zipRight(
          everywhere(topic, (one) => one.groups.delete(group)),
          Effect.sync(() => kept(topic).members.delete(group))
        )
      ),
    trim: (topic, partition, retention) => at(topic, partition, (one, now) => trim(one, retention, now)),
    bell: (topic, listener) =>
      Effect.acquireRelease(
        Effect.sync(() => kept(topic).listeners.add(listener)),
        () => Effect.sync(() => kept(topic).listeners.delete(listener))
      )
  }
}
