/**
 * The event bus on a backend: arguments checked, events encoded and decoded, and everything but the running of handlers.
 */
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Codec from "./codec.ts"
import * as Consumer from "./consumer.ts"
import type {
  Backend,
  DeadLetter,
  DeadLetters,
  From,
  GroupStats,
  NewEntry,
  Publication,
  Published,
  PublishOptions,
  Reason,
  Service,
  StoredLetter,
  StreamOptions,
  Topic
} from "./model.ts"
import { EventBusError } from "./model.ts"
import * as Topics from "./topics.ts"

/** Events that one call of a backend appends, and letters that one call replays or drops. */
const batch = 500

/** How long what a store says of a topic's partitions is believed. */
const declaredFor = 60 * 60 * 1000

/** What there is to know of a topic without its events. */
type AnyTopic = Pick<Topic<unknown>, "name" | "problem" | "settings">

const failure = (reason: Reason, method: string, description: string): Effect.Effect<never, EventBusError> =>
  Effect.fail(new EventBusError({ reason, method, description, outcome: "not-done", repeatable: true }))

/** Whatever became of the question: what was to be done after it was not begun. */
const asked =
  (method: string) =>
  ({ cause, description, reason }: EventBusError): EventBusError =>
    new EventBusError({
      reason,
      method,
      description,
      outcome: "not-done",
      repeatable: true,
      ...(cause === undefined ? {} : { cause })
    })

const ofUnknownOutcome = ({ cause, description, method, reason, repeatable }: EventBusError): EventBusError =>
  new EventBusError({
    reason,
    method,
    description,
    outcome: "unknown",
    repeatable,
    ...(cause === undefined ? {} : { cause })
  })

export const make = (backend: Backend): Service => {
  /** Until when a topic's number of partitions need not be asked for again. */
  const declared = new Map<string, number>()

  /** Looks at the topic, and once in a while at what the store says of it. */
  const withTopic = <B, E, R>(
    method: string,
    { name, problem, settings }: AnyTopic,
    then: () => Effect.Effect<B, E, R>
  ): Effect.Effect<B, E | EventBusError, R> => {
    if (problem !== undefined) return failure("InvalidTopic", method, problem)
    return Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const known = `${settings.partitions} ${name}`
      if ((declared.get(known) ?? 0) > now) return then()
      return Effect.flatMap(
        Effect.mapError(backend.declare(settings), asked(method)),
        (partitions): Effect.Effect<B, E | EventBusError, R> => {
          if (partitions !== settings.partitions) {
            return failure(
              "InvalidTopic",
              method,
              `the topic is kept in ${partitions} partitions, not ${settings.partitions}: say so, or take another name`
            )
          }
          if (declared.size >= 1_000) declared.clear()
          declared.set(known, now + Math.min(declaredFor, settings.forgetAfter / 2))
          return then()
        }
      )
    })
  }

  const withGroup = <B, E, R>(
    method: string,
    topic: AnyTopic,
    group: string,
    then: () => Effect.Effect<B, E, R>
  ): Effect.Effect<B, E | EventBusError, R> => {
    const problem = Topics.nameProblem(group, 200)
    return problem === undefined
      ? withTopic(method, topic, then)
      : failure("InvalidOptions", method, `the name of the group ${problem}`)
  }

  const startsOf = (method: string, from: From, partitions: number) =>
    Either.match(Topics.starts(from, partitions), {
      onLeft: (problem) => failure("InvalidOptions", method, problem),
      onRight: (starts) => Effect.succeed(starts)
    })

  const entryOf = <A, I>(
    method: string,
    topic: Topic<A, I>,
    event: A,
    options: PublishOptions
  ): Effect.Effect<NewEntry, EventBusError> => {
    const { headers, id, key } = options
    if (id !== undefined) {
      const problem = Topics.nameProblem(id, 512)
      if (problem !== undefined) return failure("InvalidOptions", method, `the id of an event ${problem}`)
    }
    if (key !== undefined) {
      const problem = Topics.keyProblem(key)
      if (problem !== undefined) return failure("InvalidOptions", method, `an ordering key ${problem}`)
    }
    const text = Codec.encodeHeaders(headers)
    if (Either.isLeft(text)) return failure("InvalidOptions", method, text.left)
    return Effect.matchEffect(Codec.encode(topic.schema, event), {
      onFailure: (problem) => failure("InvalidEvent", method, problem),
      onSuccess: (data) =>
        Effect.succeed({ id: id ?? Codec.randomId(), unique: id !== undefined, key, headers: text.right, data })
    })
  }

  const partitionOf = (entry: NewEntry, partitions: number): number =>
    Topics.partitionOf(entry.key ?? entry.id, partitions)

  const publishAll = <A, I>(
    topic: Topic<A, I>,
    publications: ReadonlyArray<Publication<A>>
  ): Effect.Effect<ReadonlyArray<Published>, EventBusError> =>
    withTopic("publishAll", topic, () =>
      Effect.flatMap(
        Effect.forEach(publications, (publication) => entryOf("publishAll", topic, publication.event, publication)),
        (entries) => {
          const repeatable = entries.every((entry) => entry.unique)
          const published: Array<Published> = new Array(entries.length)
          const byPartition = new Map<number, Array<number>>()
          entries.forEach((entry, index) => {
            const partition = partitionOf(entry, topic.settings.partitions)
            const indexes = byPartition.get(partition)
            if (indexes === undefined) byPartition.set(partition, [index])
            else indexes.push(index)
          })
          const append = (
            partition: number,
            indexes: ReadonlyArray<number>,
            begun: boolean
          ): Effect.Effect<void, EventBusError> => {
            if (indexes.length === 0) return Effect.void
            const now = indexes.slice(0, batch)
            const some = now.flatMap((index) => entries[index] ?? [])
            return Effect.matchEffect(backend.append(topic.settings, partition, some), {
              onFailure: (error) => Effect.fail(ofPublication(error, "publishAll", repeatable, begun)),
              onSuccess: (appended) => {
                now.forEach((index, at) => {
                  const one = appended[at]
                  const entry = entries[index]
                  if (one !== undefined && entry !== undefined) published[index] = publishedAs(entry, one, partition)
                })
                return append(partition, indexes.slice(batch), true)
              }
            })
          }
          const several = byPartition.size > 1
          return Effect.as(
            Effect.forEach(byPartition, ([partition, indexes]) => append(partition, indexes, several), {
              concurrency: 16,
              discard: true
            }),
            published
          )
        }
      )
    )

  const stream = <A, I>(
    topic: Topic<A, I>,
    options: StreamOptions = {}
  ): Stream.Stream<Codec.Decoded<A>, EventBusError> =>
    Stream.unwrapScoped(
      withTopic("stream", topic, () =>
        Effect.gen(function* () {
          const { settings } = topic
          const pageSize = options.pageSize ?? 100
          const poll = Topics.millis(options.pollInterval ?? "5 seconds")
          if (!Topics.isCount(pageSize)) {
            return yield* failure("InvalidOptions", "stream", "the size of a page must be a positive whole number")
          }
          if (poll === undefined) return yield* failure("InvalidOptions", "stream", "the interval must be a duration")
          const starts = yield* startsOf("stream", options.from ?? "beginning", settings.partitions)
          const news = Effect.unsafeMakeLatch(true)
          const follow = options.follow !== false
          // who listens first and looks then misses nothing
          if (follow) yield* backend.bell(settings, () => news.unsafeOpen())
          const ends = starts.includes("$") || !follow ? yield* backend.ends(settings) : []
          const cursors = starts.map((start, partition) => (start === "$" ? (ends[partition] ?? "0-0") : start))

          /** One page of every partition, as far as they can be put in order; `more`: there is more to read at once. */
          const page = Effect.map(
            Effect.forEach(
              cursors,
              (cursor, partition) =>
                !follow && Topics.compare(cursor, ends[partition] ?? "0-0") >= 0
                  ? Effect.succeed([])
                  : backend.range(settings, partition, cursor, pageSize),
              { concurrency: "unbounded" }
            ),
            (pages) => {
              // what lies behind the end of a full page is not known: nothing beyond it can be handed out
              let bound: string | undefined
              for (const entries of pages) {
                const last = entries.length < pageSize ? undefined : entries.at(-1)?.position
                if (last !== undefined && (bound === undefined || Topics.compare(last, bound) < 0)) bound = last
              }
              const all: Array<Codec.Located> = []
              pages.forEach((entries, partition) => {
                const end = follow ? undefined : ends[partition]
                for (const entry of entries) {
                  if (bound !== undefined && Topics.compare(entry.position, bound) > 0) break
                  cursors[partition] = entry.position
                  if (end !== undefined && Topics.compare(entry.position, end) > 0) break
                  all.push({ entry, partition })
                }
              })
              all.sort(
                (one, other) =>
                  Topics.compare(one.entry.position, other.entry.position) || one.partition - other.partition
              )
              return { entries: all.filter(({ entry }) => entry.only === undefined), more: bound !== undefined }
            }
          )

          const decoded = ({
            entry,
            partition
          }: Codec.Located): Effect.Effect<Option.Option<Codec.Decoded<A>>, EventBusError> =>
            Effect.matchEffect(Codec.decode(topic.schema, entry), {
              onFailure: (problem) =>
                options.undecodable === "skip"
                  ? Effect.succeed(Option.none())
                  : failure("Undecodable", "stream", `an event is not of the topic's schema: ${problem}`),
              onSuccess: (event) => Effect.succeed(Option.some(Codec.message(topic.name, partition, entry, 1, event)))
            })

          /** What can be handed out, up to the first event that cannot. */
          const firstOf = (entries: ReadonlyArray<Codec.Located>) => {
            const messages: Array<Codec.Decoded<A>> = []
            return Effect.match(
              Effect.forEach(
                entries,
                (located) =>
                  Effect.map(decoded(located), (message) => {
                    if (Option.isSome(message)) messages.push(message.value)
                  }),
                { discard: true }
              ),
              {
                onFailure: (failed) => ({ messages, failed }),
                onSuccess: () => ({ messages, failed: undefined })
              }
            )
          }

          /** With what it ends once all that stands before has been handed out. */
          let broken: EventBusError | undefined
          const waited = Effect.raceFirst(news.await, Effect.sleep(poll))
          const pull: Effect.Effect<Chunk.Chunk<Codec.Decoded<A>>, Option.Option<EventBusError>> = Effect.suspend(
            () => {
              if (broken !== undefined) return Effect.fail(Option.some(broken))
              news.unsafeClose()
              return Effect.flatMap(Effect.mapError(page, Option.some), ({ entries, more }) => {
                if (more) news.unsafeOpen()
                if (entries.length === 0) {
                  if (more) return pull
                  return follow ? Effect.zipRight(waited, pull) : Effect.fail(Option.none())
                }
                return Effect.flatMap(firstOf(entries), ({ failed, messages }) => {
                  if (failed === undefined) {
                    return messages.length === 0 ? pull : Effect.succeed(Chunk.unsafeFromArray(messages))
                  }
                  if (messages.length === 0) return Effect.fail(Option.some(failed))
                  broken = failed
                  return Effect.succeed(Chunk.unsafeFromArray(messages))
                })
              })
            }
          )
          return Stream.repeatEffectChunkOption(pull)
        })
      )
    )

  const deadLetters = <A, I>(topic: Topic<A, I>, group: string): DeadLetters<A> => {
    const { settings } = topic

    const shown = (partition: number, letter: StoredLetter): Effect.Effect<DeadLetter<A>> =>
      Effect.map(Effect.option(Codec.decode(topic.schema, letter.entry)), (event) => ({
        letter: Topics.inTopic(letter.letter, partition),
        id: letter.entry.id,
        key: letter.entry.key,
        headers: Codec.decodeHeaders(letter.entry.headers),
        position: Topics.inTopic(letter.entry.position, partition),
        publishedAt: letter.entry.publishedAt ?? Topics.timeOf(letter.entry.position),
        deadAt: letter.deadAt,
        deliveries: letter.deliveries,
        reason: letter.reason,
        description: letter.description,
        data: letter.entry.data,
        event
      }))

    const read = (
      after: string | undefined,
      limit: number
    ): Effect.Effect<ReadonlyArray<DeadLetter<A>>, EventBusError> => {
      const begin = after === undefined ? { position: "0-0", partition: 0 } : Topics.taken(after, settings.partitions)
      if (begin === undefined) return failure("InvalidOptions", "deadLetters.read", "there is no such letter")
      const from = (
        partition: number,
        position: string,
        left: number
      ): Effect.Effect<ReadonlyArray<DeadLetter<A>>, EventBusError> => {
        if (left === 0 || partition >= settings.partitions) return Effect.succeed([])
        return Effect.flatMap(
          backend.letters(settings, group, partition, position, Math.min(left, batch)),
          (letters) => {
            const last = letters.at(-1)
            const full = last !== undefined && letters.length === Math.min(left, batch)
            return Effect.zipWith(
              Effect.forEach(letters, (letter) => shown(partition, letter)),
              full
                ? from(partition, last.letter, left - letters.length)
                : from(partition + 1, "0-0", left - letters.length),
              (these, more) => [...these, ...more]
            )
          }
        )
      }
      return from(begin.partition, begin.position, limit)
    }

    const some = (method: "replay" | "drop", letters: ReadonlyArray<string>): Effect.Effect<number, EventBusError> => {
      const byPartition = new Map<number, Array<string>>()
      for (const letter of letters) {
        const where = Topics.taken(letter, settings.partitions)
        if (where === undefined) return failure("InvalidOptions", `deadLetters.${method}`, "there is no such letter")
        byPartition.set(where.partition, [...(byPartition.get(where.partition) ?? []), where.position])
      }
      const steps = makeSteps()
      return Effect.reduce(byPartition, 0, (done, [partition, positions]) =>
        Effect.map(
          Effect.reduce(pieces(positions), 0, (count, piece) =>
            Effect.map(steps.change(backend[method](settings, group, partition, piece)), (more) => count + more)
          ),
          (count) => done + count
        )
      )
    }

    /** As many as there were when it began: a letter that dies again is not met again. */
    const all = (method: "replay" | "drop"): Effect.Effect<number, EventBusError> => {
      const steps = makeSteps()
      const of = (partition: number, left: number, done: number): Effect.Effect<number, EventBusError> =>
        left <= 0
          ? Effect.succeed(done)
          : Effect.flatMap(
              steps.look(backend.letters(settings, group, partition, "0-0", Math.min(left, batch))),
              (letters) =>
                letters.length === 0
                  ? Effect.succeed(done)
                  : Effect.flatMap(
                      steps.change(
                        backend[method](
                          settings,
                          group,
                          partition,
                          letters.map(({ letter }) => letter)
                        )
                      ),
                      (count) => of(partition, left - letters.length, done + count)
                    )
            )
      return Effect.flatMap(backend.stats(settings, group), (partitions) =>
        Effect.reduce(partitions, 0, (sum, { deadLetters, partition }) =>
          Effect.map(of(partition, deadLetters, 0), (done) => sum + done)
        )
      )
    }

    const counted = Effect.map(backend.stats(settings, group), (partitions) =>
      partitions.reduce((sum, { deadLetters }) => sum + deadLetters, 0)
    )

    return {
      count: withGroup("deadLetters.count", topic, group, () => counted),
      read: (options = {}) =>
        withGroup("deadLetters.read", topic, group, () => {
          const limit = options.limit ?? 100
          return Number.isSafeInteger(limit) && limit >= 0
            ? read(options.after, limit)
            : failure("InvalidOptions", "deadLetters.read", "the limit must be a whole number")
        }),
      replay: (letters) =>
        withGroup("deadLetters.replay", topic, group, () =>
          letters === "all" ? all("replay") : some("replay", letters)
        ),
      drop: (letters) =>
        withGroup("deadLetters.drop", topic, group, () => (letters === "all" ? all("drop") : some("drop", letters)))
    }
  }

  return {
    publish: (topic, event, options = {}) =>
      withTopic("publish", topic, () =>
        Effect.flatMap(entryOf("publish", topic, event, options), (entry) => {
          const partition = partitionOf(entry, topic.settings.partitions)
          return Effect.mapBoth(backend.append(topic.settings, partition, [entry]), {
            onFailure: (error) => ofPublication(error, "publish", entry.unique, false),
            onSuccess: ([one]) => publishedAs(entry, one ?? { position: "0-0", duplicate: false }, partition)
          })
        })
      ),
    publishAll,
    subscribe: (topic, options) => (handler) =>
      withGroup("subscribe", topic, options.group, () =>
        Effect.flatMap(startsOf("subscribe", options.from ?? "beginning", topic.settings.partitions), (starts) => {
          const checked = Consumer.check(options)
          return Either.isLeft(checked)
            ? failure("InvalidOptions", "subscribe", checked.left)
            : Consumer.subscribe(backend, topic, checked.right, starts, handler)
        })
      ),
    stream,
    deadLetters,
    seek: (topic, group, from) =>
      withGroup("seek", topic, group, () =>
        Effect.flatMap(startsOf("seek", from, topic.settings.partitions), (starts) =>
          backend.seek(topic.settings, group, starts)
        )
      ),
    groups: (topic) => withTopic("groups", topic, () => backend.groups(topic.settings)),
    stats: (topic, group) =>
      withGroup("stats", topic, group, () =>
        Effect.map(backend.stats(topic.settings, group), (partitions): GroupStats => {
          const sums = { length: 0, lag: 0, pending: 0, deadLetters: 0 }
          for (const one of partitions) {
            sums.length += one.length
            sums.lag += one.lag
            sums.pending += one.pending
            sums.deadLetters += one.deadLetters
          }
          return { ...sums, partitions }
        })
      ),
    removeGroup: (topic, group) =>
      withGroup("removeGroup", topic, group, () => backend.removeGroup(topic.settings, group)),
    trim: (topic, options) =>
      withTopic("trim", topic, () => {
        const retention = Topics.retention(options, topic.settings.retention)
        if (Either.isLeft(retention)) return failure("InvalidOptions", "trim", retention.left)
        const steps = makeSteps()
        const trim = (partition: number, done: number): Effect.Effect<number, EventBusError> =>
          Effect.flatMap(steps.change(backend.trim(topic.settings, partition, retention.right)), (removed) =>
            removed === 0 ? Effect.succeed(done) : trim(partition, done + removed)
          )
        return Effect.map(
          Effect.forEach(
            Array.from({ length: topic.settings.partitions }, (_, partition) => partition),
            (partition) => trim(partition, 0),
            { concurrency: 8 }
          ),
          (counts) => counts.reduce((sum, count) => sum + count, 0)
        )
      })
  }
}

const publishedAs = (
  entry: NewEntry,
  { duplicate, position }: { readonly position: string; readonly duplicate: boolean },
  partition: number
): Published => ({ id: entry.id, position: Topics.inTopic(position, partition), duplicate })

/** A failed publication: `begun`, others of the same call can have been written. */
const ofPublication = (error: EventBusError, method: string, repeatable: boolean, begun: boolean): EventBusError =>
  new EventBusError({
    reason: error.reason,
    method,
    description: error.description,
    outcome: begun ? "unknown" : error.outcome,
    repeatable,
    ...(error.cause === undefined ? {} : { cause: error.cause })
  })

/** Several changes that are one operation for its caller: when one fails, others can have been made. */
const makeSteps = () => {
  let begun = 0
  const look = <B>(effect: Effect.Effect<B, EventBusError>): Effect.Effect<B, EventBusError> =>
    Effect.mapError(effect, (error) => (begun > 0 ? ofUnknownOutcome(error) : error))
  const change = <B>(effect: Effect.Effect<B, EventBusError>): Effect.Effect<B, EventBusError> =>
    Effect.suspend(() => {
      begun++
      return Effect.mapError(effect, (error) => {
        begun--
        return begun > 0 ? ofUnknownOutcome(error) : error
      })
    })
  return { look, change }
}

const pieces = <A>(all: ReadonlyArray<A>): ReadonlyArray<ReadonlyArray<A>> => {
  const cut: Array<ReadonlyArray<A>> = []
  for (let start = 0; start < all.length; start += batch) cut.push(all.slice(start, start + batch))
  return cut
}
