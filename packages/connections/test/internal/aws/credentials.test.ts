import * as Fs from "node:fs"
import * as Http from "node:http"
import * as Os from "node:os"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { ConnectionError } from "@underlay/core/connection/Connection"
import {
  ConfigProvider,
  Deferred,
  Effect,
  Exit,
  Fiber,
  Redacted,
  Schedule,
  Scope,
  TestClock,
  TestServices
} from "effect"
import * as Aws from "../../../src/internal/aws/credentials.ts"

const at = { kind: "s3", name: "test" }

const withEnvironment = (variables: Record<string, string>) =>
  Effect.withConfigProvider(
    ConfigProvider.fromMap(
      new Map(
        Object.entries({
          AWS_CONFIG_FILE: "/nowhere/config",
          AWS_SHARED_CREDENTIALS_FILE: "/nowhere/credentials",
          AWS_EC2_METADATA_DISABLED: "true",
          ...variables
        })
      ),
      { pathDelim: "\u0000" }
    )
  )

const once = (settings: Aws.CredentialsSettings, variables: Record<string, string> = {}) =>
  Effect.scoped(Effect.flatMap(Aws.provider(at, settings), (credentials) => credentials)).pipe(
    withEnvironment(variables)
  )

const shown = (credentials: Aws.Credentials) => ({
  id: credentials.accessKeyId,
  secret: Redacted.value(credentials.secretAccessKey),
  token: credentials.sessionToken === undefined ? undefined : Redacted.value(credentials.sessionToken)
})

const file = (text: string) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const folder = Fs.mkdtempSync(Path.join(Os.tmpdir(), "underlay-aws-"))
      const path = Path.join(folder, "file")
      Fs.writeFileSync(path, text)
      return path
    }),
    (path) => Effect.sync(() => Fs.rmSync(Path.dirname(path), { recursive: true }))
  )

interface Asked {
  readonly method: string
  readonly url: string
  readonly headers: Http.IncomingHttpHeaders
  readonly body: string
}

const serve = (answer: (asked: Asked) => { readonly status: number; readonly body: string } | undefined) =>
  Effect.acquireRelease(
    Effect.async<{ readonly url: string; readonly asked: Array<Asked>; readonly server: Http.Server }>((resume) => {
      const asked: Array<Asked> = []
      const server = Http.createServer((request, response) => {
        let body = ""
        request.on("data", (part: Buffer) => {
          body += part.toString()
        })
        request.on("end", () => {
          const one = { method: request.method ?? "", url: request.url ?? "", headers: request.headers, body }
          asked.push(one)
          const answered = answer(one)
          // undefined: never
          if (answered === undefined) return
          response.statusCode = answered.status
          response.end(answered.body)
        })
      })
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        const port = typeof address === "object" && address !== null ? address.port : 0
        resume(Effect.succeed({ url: `http://127.0.0.1:${port}`, asked, server }))
      })
    }),
    ({ server }) =>
      Effect.async<void>((resume) => {
        server.closeAllConnections()
        server.close(() => resume(Effect.void))
      })
  )

const json = (expiration?: string) =>
  JSON.stringify({ AccessKeyId: "ID", SecretAccessKey: "SECRET", Token: "TOKEN", Expiration: expiration })

describe("credentials of AWS", () => {
  it.live("those of the settings are taken as they are", () =>
    Effect.gen(function* () {
      const found = yield* once({ accessKeyId: "a", secretAccessKey: Redacted.make("b") })
      assert.deepStrictEqual(shown(found), { id: "a", secret: "b", token: undefined })
    })
  )

  it.scoped("those whose end cannot be read are good for now, and asked for again soon", () =>
    Effect.gen(function* () {
      const { asked, url } = yield* serve(() => ({ status: 200, body: json("in a while") }))
      const variables = { AWS_CONTAINER_CREDENTIALS_FULL_URI: `${url}/x` }
      const credentials = yield* withEnvironment(variables)(Aws.provider(at, {}))
      assert.strictEqual((yield* credentials).accessKeyId, "ID")
      yield* credentials
      assert.strictEqual(asked.length, 1)
      yield* TestClock.adjust("61 seconds")
      assert.strictEqual((yield* credentials).accessKeyId, "ID")
      yield* TestServices.provideLive(
        Effect.repeat(Effect.void, { schedule: Schedule.spaced("5 millis"), until: () => asked.length === 2 })
      )
      // one of one's own too
      let given = 0
      const own = yield* Aws.provider(at, {
        credentials: Effect.sync(() => {
          given++
          return {
            accessKeyId: `${given}`,
            secretAccessKey: Redacted.make("s"),
            expiration: new Date(Number.NaN)
          }
        })
      })
      assert.strictEqual((yield* own).accessKeyId, "1")
      assert.strictEqual((yield* own).accessKeyId, "1")
      yield* TestClock.adjust("7 minutes")
      assert.strictEqual((yield* own).accessKeyId, "2")
    })
  )

  it.live("half of them is an error that says so", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(once({ accessKeyId: "a" }))
      assert.strictEqual(error.reason, "InvalidSettings")
    })
  )

  it.live("the environment comes before the shared files, and a named profile before both", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const credentials = yield* file(
          "[default]\naws_access_key_id = F\naws_secret_access_key=G # note\n\n[other]\naws_access_key_id=O\naws_secret_access_key=P\naws_session_token=Q=\n"
        )
        const config = yield* file(
          "[default]\nregion=eu-west-1\n[profile other]\nregion = eu-central-1\ns3 =\n  a = b\n"
        )
        const files = { AWS_SHARED_CREDENTIALS_FILE: credentials, AWS_CONFIG_FILE: config }
        const environment = { AWS_ACCESS_KEY_ID: "E", AWS_SECRET_ACCESS_KEY: "S", AWS_SESSION_TOKEN: "T" }
        assert.deepStrictEqual(shown(yield* once({}, { ...files, ...environment })), {
          id: "E",
          secret: "S",
          token: "T"
        })
        assert.deepStrictEqual(shown(yield* once({}, files)), { id: "F", secret: "G", token: undefined })
        assert.deepStrictEqual(shown(yield* once({ profile: "other" }, { ...files, ...environment })), {
          id: "O",
          secret: "P",
          token: "Q="
        })
        assert.strictEqual(yield* withEnvironment(files)(Aws.region(at, {})), "eu-west-1")
        assert.strictEqual(yield* withEnvironment(files)(Aws.region(at, { profile: "other" })), "eu-central-1")
        assert.strictEqual(
          yield* withEnvironment({ ...files, AWS_REGION: "us-east-2" })(Aws.region(at, { profile: "other" })),
          "us-east-2"
        )
        const error = yield* Effect.flip(once({ profile: "missing" }, files))
        assert.strictEqual(error.reason, "InvalidSettings")
      })
    )
  )

  it.live("none anywhere says where they can come from", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(once({}))
      assert.strictEqual(error.reason, "Authentication")
      assert.include(error.description, "AWS_ACCESS_KEY_ID")
      assert.strictEqual((yield* Effect.flip(withEnvironment({})(Aws.region(at, {})))).reason, "InvalidSettings")
    })
  )

  it.live("the role of an instance, with a token of its own", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const metadata = yield* serve(({ headers, method, url }) => {
          if (method === "PUT") return { status: 200, body: "metadata-token" }
          if (headers["x-aws-ec2-metadata-token"] !== "metadata-token") return { status: 401, body: "" }
          return { status: 200, body: url.endsWith("/") ? "role" : json("2099-01-01T00:00:00Z") }
        })
        const variables = {
          AWS_EC2_METADATA_DISABLED: "false",
          AWS_EC2_METADATA_SERVICE_ENDPOINT: `${metadata.url}/`
        }
        const found = yield* once({}, variables)
        assert.deepStrictEqual(shown(found), { id: "ID", secret: "SECRET", token: "TOKEN" })
        assert.deepStrictEqual(found.expiration, new Date("2099-01-01T00:00:00Z"))
        assert.deepStrictEqual(
          metadata.asked.map(({ url }) => url),
          [
            "/latest/api/token",
            "/latest/meta-data/iam/security-credentials/",
            "/latest/meta-data/iam/security-credentials/role"
          ]
        )
      })
    )
  )

  it.live("an instance's service that never answers ends in a second, and leaves no socket", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const metadata = yield* serve(() => undefined)
        const error = yield* Effect.flip(
          once({}, { AWS_EC2_METADATA_DISABLED: "false", AWS_EC2_METADATA_SERVICE_ENDPOINT: metadata.url })
        )
        assert.strictEqual(error.reason, "Authentication")
        yield* Effect.async<number>((resume) => {
          metadata.server.getConnections((_, count) => resume(Effect.succeed(count)))
        }).pipe(Effect.repeat({ until: (count) => count === 0, schedule: Schedule.spaced("10 millis") }))
      })
    )
  )

  it.live("a container's, with its authorization; never over plain HTTP to another machine", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const metadata = yield* serve(({ headers }) =>
          headers.authorization === "bearer" ? { status: 200, body: json() } : { status: 403, body: "" }
        )
        const variables = { AWS_CONTAINER_CREDENTIALS_FULL_URI: `${metadata.url}/get` }
        const found = yield* once({}, { ...variables, AWS_CONTAINER_AUTHORIZATION_TOKEN: "bearer" })
        assert.strictEqual(found.accessKeyId, "ID")
        assert.strictEqual((yield* Effect.flip(once({}, variables))).reason, "Authentication")
        const refused = yield* Effect.flip(once({}, { AWS_CONTAINER_CREDENTIALS_FULL_URI: "http://10.0.0.1/get" }))
        assert.strictEqual(refused.reason, "InvalidSettings")
      })
    )
  )

  it.live("an address or a token that no request can have is an error, and no defect", () =>
    Effect.gen(function* () {
      const wrong: ReadonlyArray<Record<string, string>> = [
        { AWS_CONTAINER_CREDENTIALS_FULL_URI: "ftp://localhost/get" },
        {
          AWS_CONTAINER_CREDENTIALS_FULL_URI: "http://localhost:1/get",
          AWS_CONTAINER_AUTHORIZATION_TOKEN: "s3cret\u0001\u{1F30D}"
        },
        { AWS_EC2_METADATA_DISABLED: "false", AWS_EC2_METADATA_SERVICE_ENDPOINT: "ftp://localhost" }
      ]
      for (const variables of wrong) {
        const error = yield* Effect.flip(once({}, variables))
        assert.include(["InvalidSettings", "Unavailable", "Authentication"], error.reason)
        assert.notInclude(`${error.message}${JSON.stringify(error)}${String(error.cause)}`, "s3cret")
      }
    })
  )

  it.live("a web identity, by its token's file", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const sts = yield* serve(() => ({
          status: 200,
          body: "<R><Credentials><AccessKeyId>W</AccessKeyId><SecretAccessKey>X</SecretAccessKey><SessionToken>Y</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></R>"
        }))
        const token = yield* file("jwt\n")
        const found = yield* once(
          {},
          { AWS_WEB_IDENTITY_TOKEN_FILE: token, AWS_ROLE_ARN: "arn:aws:iam::1:role/r", AWS_ENDPOINT_URL_STS: sts.url }
        )
        assert.deepStrictEqual(shown(found), { id: "W", secret: "X", token: "Y" })
        const sent = new URLSearchParams(sts.asked[0]?.body)
        assert.strictEqual(sent.get("WebIdentityToken"), "jwt")
        assert.strictEqual(sent.get("Action"), "AssumeRoleWithWebIdentity")
      })
    )
  )

  it.live("an answer without credentials is an error that does not repeat it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const metadata = yield* serve(() => ({ status: 200, body: '{"SecretAccessKey":"hidden"}' }))
        const error = yield* Effect.flip(once({}, { AWS_CONTAINER_CREDENTIALS_FULL_URI: metadata.url }))
        assert.strictEqual(error.reason, "Authentication")
        assert.notInclude(JSON.stringify(error) + error.message, "hidden")
      })
    )
  )

  const rotating = (state: { asked: number; fails: boolean }, gate?: Deferred.Deferred<void>) =>
    Effect.gen(function* () {
      const now = yield* TestClock.currentTimeMillis
      state.asked++
      if (gate !== undefined) yield* Deferred.await(gate)
      if (state.fails) {
        return yield* new ConnectionError({
          ...at,
          connection: "test",
          reason: "Unavailable",
          method: "m",
          description: "d"
        })
      }
      return {
        accessKeyId: `id-${state.asked}`,
        secretAccessKey: Redacted.make("s"),
        expiration: new Date(now + 3_600_000)
      }
    })

  it.effect("are asked for once at a time, and a caller that goes does not take the answer along", () =>
    Effect.gen(function* () {
      const state = { asked: 0, fails: false }
      const gate = yield* Deferred.make<void>()
      const get = yield* Aws.provider(at, { credentials: rotating(state, gate) })
      const first = yield* Effect.fork(get)
      const others = yield* Effect.fork(
        Effect.all(
          Array.from({ length: 20 }, () => get),
          { concurrency: "unbounded" }
        )
      )
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(first)
      yield* Deferred.succeed(gate, undefined)
      const found = yield* Fiber.join(others)
      assert.strictEqual(state.asked, 1)
      assert.isTrue(found.every(({ accessKeyId }) => accessKeyId === "id-1"))
    }).pipe(Effect.scoped)
  )

  it.effect("are kept until five minutes before they expire; a failure then is none while they last", () =>
    Effect.gen(function* () {
      const state = { asked: 0, fails: false }
      const get = yield* Aws.provider(at, { credentials: rotating(state) })
      assert.strictEqual((yield* get).accessKeyId, "id-1")
      yield* TestClock.adjust("54 minutes")
      assert.strictEqual((yield* get).accessKeyId, "id-1")
      assert.strictEqual(state.asked, 1)
      state.fails = true
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual((yield* get).accessKeyId, "id-1")
      yield* TestClock.adjust("210 seconds")
      // half a minute is left: it waits for the answer, and takes the old ones
      assert.strictEqual((yield* get).accessKeyId, "id-1")
      assert.isAtLeast(state.asked, 3)
      state.fails = false
      yield* TestClock.adjust("20 seconds")
      assert.match((yield* get).accessKeyId, /^id-[2-9]/)
      yield* TestClock.adjust("2 hours")
      state.fails = true
      assert.strictEqual((yield* Effect.flip(get)).reason, "Unavailable")
    }).pipe(Effect.scoped)
  )

  it.effect("what never answers ends after ten seconds, also where it cannot be interrupted", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const stuck = yield* Deferred.make<never>()
      const get = yield* Scope.extend(
        Aws.provider(at, { credentials: Effect.uninterruptible(Deferred.await(stuck)) }),
        scope
      )
      const fiber = yield* Effect.fork(Effect.flip(get))
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* Fiber.join(fiber)).reason, "Timeout")
      yield* Deferred.interrupt(stuck)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Effect.flip(get)).reason, "Closed")
    })
  )
})
