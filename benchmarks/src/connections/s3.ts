/**
 * S3 on the internal plane against the official client: what a put and a get cost this process, and how long they take,
 * one after another, against the same server. Rounds of the two take turns; the median of their rounds counts.
 */
import { GetObjectCommand, PutObjectCommand, S3Client } from "@aws-sdk/client-s3"
import { S3 } from "@underlay/connections"
import * as RadosgwServer from "@underlay/servers/RadosgwServer"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"

interface Cost {
  /** Microseconds a call: of this process's processor time, and of the clock. */
  readonly cpu: number
  readonly wall: number
}

const measured = async (count: number, call: () => Promise<unknown>): Promise<Cost> => {
  const before = process.cpuUsage()
  const began = performance.now()
  for (let i = 0; i < count; i++) await call()
  const used = process.cpuUsage(before)
  return { cpu: (used.user + used.system) / count, wall: ((performance.now() - began) * 1_000) / count }
}

const median = (values: ReadonlyArray<number>): number => [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0

/** Runs the comparison and gives a row for each operation and size. */
export const run = Effect.gen(function* () {
  const server = yield* RadosgwServer.make
  const { accessKeyId, endpoint, region, secretAccessKey } = server
  const { store } = yield* S3.make({
    bucket: "bench",
    endpoint,
    region,
    accessKeyId,
    secretAccessKey: Redacted.make(secretAccessKey),
    createBucket: true,
    plane: "internal"
  })
  const sdk = new S3Client({
    endpoint,
    region,
    forcePathStyle: true,
    credentials: { accessKeyId, secretAccessKey },
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED"
  })
  yield* Effect.addFinalizer(() => Effect.sync(() => sdk.destroy()))
  const runtime = yield* Effect.runtime<never>()
  const runPromise = <A, E>(effect: Effect.Effect<A, E>) => Effect.runPromise(Effect.provide(effect, runtime))

  const rows: Array<Record<string, string | number>> = []
  for (const [size, count] of [
    [4_096, 100],
    [1_048_576, 25]
  ] as const) {
    const body = new Uint8Array(size).fill(7)
    const cases = {
      put: [
        () => runPromise(store.put("ours", body)),
        () => sdk.send(new PutObjectCommand({ Bucket: "bench", Key: "theirs", Body: body }))
      ],
      get: [
        () => runPromise(store.get("ours")),
        async () => {
          const { Body } = await sdk.send(new GetObjectCommand({ Bucket: "bench", Key: "theirs" }))
          return Body?.transformToByteArray()
        }
      ]
    } as const
    for (const [name, [ours, theirs]] of Object.entries(cases)) {
      const own: Array<Cost> = []
      const other: Array<Cost> = []
      yield* Effect.promise(async () => {
        await measured(count, ours)
        await measured(count, theirs)
        for (let round = 0; round < 5; round++) {
          own.push(await measured(count, ours))
          other.push(await measured(count, theirs))
        }
      })
      const of = (costs: ReadonlyArray<Cost>, what: keyof Cost) => Math.round(median(costs.map((cost) => cost[what])))
      rows.push({
        operation: `${name} ${size / 1_024} KiB`,
        "ours CPU µs": of(own, "cpu"),
        "SDK CPU µs": of(other, "cpu"),
        "CPU ratio": Number((of(own, "cpu") / of(other, "cpu")).toFixed(2)),
        "ours µs": of(own, "wall"),
        "SDK µs": of(other, "wall"),
        "time ratio": Number((of(own, "wall") / of(other, "wall")).toFixed(2))
      })
    }
  }
  return rows
})

if (process.argv[1] === import.meta.filename) {
  Effect.runPromise(Effect.scoped(run)).then((rows) => console.table(rows))
}
