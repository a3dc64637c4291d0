/**
 * What a call allocates, and where: bytes for each call by V8's sampling heap profiler, with what was collected meanwhile,
 * and the functions that allocate most. Figures of a profiler are estimates; read the shares.
 */
import { Session } from "node:inspector/promises"
import { Policy } from "@underlay/core"
import * as Cockatiel from "cockatiel"
import { Effect } from "effect"
import { keep } from "./Harness.ts"

const noop = async (): Promise<number> => 1
const withSignal = async (signal: AbortSignal): Promise<number> => (signal.aborted ? 0 : 1)

interface Node {
  readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number }
  readonly selfSize: number
  readonly children: ReadonlyArray<Node>
}

const profile = async (run: (n: number) => Promise<void>, n: number) => {
  await run(n)
  const session = new Session()
  session.connect()
  await session.post("HeapProfiler.startSampling", {
    samplingInterval: 2048,
    includeObjectsCollectedByMajorGC: true,
    includeObjectsCollectedByMinorGC: true
  } as never)
  await run(n)
  const { profile } = (await session.post("HeapProfiler.stopSampling")) as { readonly profile: { readonly head: Node } }
  session.disconnect()
  const byFunction = new Map<string, number>()
  let total = 0
  const visit = (node: Node): void => {
    const { functionName, url } = node.callFrame
    const file = url
      .replace(/^.*\/node_modules\//, "")
      .replace(/^.*\/packages\//, "packages/")
      .replace(/\?.*$/, "")
    const name = `${functionName === "" ? "(anonymous)" : functionName}  ${file}`
    byFunction.set(name, (byFunction.get(name) ?? 0) + node.selfSize)
    total += node.selfSize
    for (const child of node.children) visit(child)
  }
  visit(profile.head)
  const top = [...byFunction].sort((a, b) => b[1] - a[1]).slice(0, 12)
  return { bytesPerCall: total / n, top: top.map(([name, bytes]) => ({ name, bytesPerCall: bytes / n })) }
}

const inFiber = (effect: Effect.Effect<unknown, unknown>) => (n: number) =>
  Effect.runPromise(
    Effect.ignore(
      Effect.gen(function* () {
        for (let i = 0; i < n; i++) yield* effect
      })
    )
  )

export const run = async () => {
  const policy = await Effect.runPromise(
    Policy.make({
      name: "bench",
      timeout: "30 seconds",
      attemptTimeout: "10 seconds",
      breaker: { window: { type: "count", size: 100, failureRate: 0.5 } },
      bulkhead: { maxConcurrent: 1_000 },
      metrics: true
    })
  )
  const cockatiel = Cockatiel.wrap(
    Cockatiel.retry(Cockatiel.handleAll, { maxAttempts: 2, backoff: new Cockatiel.ExponentialBackoff() }),
    Cockatiel.circuitBreaker(Cockatiel.handleAll, {
      halfOpenAfter: 30_000,
      breaker: new Cockatiel.CountBreaker({ size: 100, threshold: 0.5 })
    }),
    Cockatiel.timeout(10_000, Cockatiel.TimeoutStrategy.Aggressive),
    Cockatiel.bulkhead(1_000)
  )
  const cases: ReadonlyArray<readonly [string, (n: number) => Promise<void>]> = [
    ["Policy.tryPromise, the call takes a signal", inFiber(policy.tryPromise(withSignal))],
    ["Policy.tryPromise, no signal", inFiber(policy.tryPromise(noop))],
    ["Policy.run, any effect", inFiber(policy.run(Effect.tryPromise(noop)))],
    ["the effect alone", inFiber(Effect.tryPromise(noop))],
    [
      "cockatiel wrap(retry, breaker, timeout, bulkhead)",
      async (n) => {
        for (let i = 0; i < n; i++) await cockatiel.execute(noop)
      }
    ]
  ]
  const rows: Record<string, Awaited<ReturnType<typeof profile>>> = {}
  for (const [name, test] of cases) {
    const found = await profile(test, 20_000)
    rows[name] = found
    console.log(`\n${name}: ${Math.round(found.bytesPerCall)} bytes a call`)
    for (const each of found.top) console.log(`  ${String(Math.round(each.bytesPerCall)).padStart(6)}  ${each.name}`)
  }
  keep("allocation", rows)
}
