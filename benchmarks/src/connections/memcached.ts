/** Single items and a hundred at once, beside memjs. */
import * as Memcached from "@underlay/connections/cache/Memcached"
import { Effect, Option } from "effect"
import memjs from "memjs"
import * as MemcachedServer from "../../../servers/src/MemcachedServer.ts"
import type * as Load from "../redis/Load.ts"
import { type Comparing, checked, compared, peer } from "./place.ts"

const value = Buffer.from("x".repeat(200))

export const comparing: Comparing = Effect.gen(function* () {
  const server = yield* MemcachedServer.make()
  const settings = { servers: [server.address] }
  const internal = yield* Memcached.make({ ...settings, plane: "internal" })
  const external = yield* Memcached.make({ ...settings, plane: "external" })
  const bare = yield* peer(
    () => memjs.Client.create(server.address),
    (client) => client.close()
  )
  const key = (worker: number): string => `key-${worker}`
  for (let worker = 0; worker < 50; worker++) yield* internal.set(key(worker), value)
  const isThere = (answer: unknown): boolean => {
    const item: unknown = Option.isOption(answer) ? Option.getOrUndefined(answer) : answer
    return (item as { readonly value?: Buffer | null } | undefined)?.value?.length === value.length
  }
  const ours = [
    ["ours, internal", internal],
    ["ours, external", external]
  ] as const
  const reading = yield* checked(
    [
      { name: "memjs 1", promise: (worker) => () => bare.get(key(worker)) },
      ...ours.map(([name, client]): Load.Subject => ({ name, effect: (worker) => client.get(key(worker)) }))
    ],
    isThere
  )
  const writing: ReadonlyArray<Load.Subject> = [
    { name: "memjs 1", promise: (worker) => () => bare.set(key(worker), value, { expires: 60 }) },
    ...ours.map(
      ([name, client]): Load.Subject => ({
        name,
        effect: (worker) => client.set(key(worker), value, { ttl: "60 seconds" })
      })
    )
  ]
  const limits: ReadonlyArray<Load.Limit> = [{ subject: "ours, internal", to: "memjs 1", atMost: 1.1 }]
  return [
    yield* compared({ title: "memcached: get", base: "memjs 1", subjects: reading, limits }),
    yield* compared({ title: "memcached: set", base: "memjs 1", subjects: writing, limits })
  ]
})
