/** Objects put and got, small, of a mebibyte and of sixteen, beside the official client, at the same Ceph. */
import { GetObjectCommand, PutObjectCommand, S3Client } from "@aws-sdk/client-s3"
import * as S3 from "@underlay/connections/object/S3"
import { Effect, Redacted } from "effect"
import * as RadosgwServer from "../../../servers/src/RadosgwServer.ts"
import type * as Load from "../redis/Load.ts"
import { type Comparing, checked, compared, peer } from "./place.ts"

const base = "@aws-sdk/client-s3 3"

export const comparing: Comparing = Effect.gen(function* () {
  const { accessKeyId, endpoint, region, secretAccessKey } = yield* RadosgwServer.make
  const settings: S3.S3Settings = {
    bucket: "bench",
    endpoint,
    region,
    accessKeyId,
    secretAccessKey: Redacted.make(secretAccessKey),
    createBucket: true
  }
  const internal = yield* S3.make({ ...settings, plane: "internal" })
  const external = yield* S3.make({ ...settings, plane: "external" })
  const sdk = yield* peer(
    () =>
      new S3Client({
        endpoint,
        region,
        forcePathStyle: true,
        credentials: { accessKeyId, secretAccessKey },
        // Ours sends no checksum either unless it is told to.
        requestChecksumCalculation: "WHEN_REQUIRED",
        responseChecksumValidation: "WHEN_REQUIRED"
      }),
    (client) => client.destroy()
  )
  const ours = [
    ["ours, internal", internal.store],
    ["ours, external", external.store]
  ] as const
  const limits: ReadonlyArray<Load.Limit> = [{ subject: "ours, internal", to: base, atMost: 1.1 }]
  const results: Array<Load.Result> = []
  for (const [title, size, sliceMs] of [
    ["4 KiB", 4_096, 250],
    ["1 MiB", 1_048_576, 500],
    ["16 MiB", 16_777_216, 1_000]
  ] as const) {
    const body = new Uint8Array(size).fill(7)
    const key = (worker: number): string => `${size}-${worker}`
    for (let worker = 0; worker < 4; worker++) yield* internal.store.put(key(worker), body)
    const writing = yield* checked(
      [
        {
          name: base,
          promise: (worker) => () => sdk.send(new PutObjectCommand({ Bucket: "bench", Key: key(worker), Body: body }))
        },
        ...ours.map(([name, store]): Load.Subject => ({ name, effect: (worker) => store.put(key(worker), body) }))
      ],
      (answer) => JSON.stringify(answer).toLowerCase().includes('"etag"')
    )
    const reading = yield* checked(
      [
        {
          name: base,
          promise: (worker) => async () => {
            const { Body } = await sdk.send(new GetObjectCommand({ Bucket: "bench", Key: key(worker) }))
            return { bytes: await Body?.transformToByteArray() }
          }
        },
        ...ours.map(([name, store]): Load.Subject => ({ name, effect: (worker) => store.get(key(worker)) }))
      ],
      (answer) => (answer as { readonly bytes?: Uint8Array } | undefined)?.bytes?.length === size
    )
    const shared = { base, limits, concurrency: [1, 4], sliceMs }
    results.push(yield* compared({ ...shared, title: `S3: put of ${title}`, subjects: writing }))
    results.push(yield* compared({ ...shared, title: `S3: get of ${title}`, subjects: reading }))
  }
  return results
})
