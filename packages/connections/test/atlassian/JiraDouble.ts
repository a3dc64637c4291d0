/**
 * A double of Jira Cloud, written from Atlassian's description of its API. It is not Jira: it knows a few forms of queries,
 * and nothing of permissions. It imports nothing of ours.
 */
import { randomUUID } from "node:crypto"
import { Effect, type Scope } from "effect"
import * as HttpDouble from "./HttpDouble.ts"
import { OpenApi } from "./OpenApi.ts"

type Json = Record<string, unknown>

interface StoredIssue {
  readonly id: string
  readonly key: string
  fields: Json
  status: string
  assignee: string | null
  readonly comments: Array<{ id: string; body: unknown; created: string; updated: string; visibility?: unknown }>
  readonly attachments: Array<string>
  readonly watchers: Set<string>
}

interface StoredFile {
  readonly id: string
  readonly filename: string
  readonly mimeType: string
  readonly content: Buffer
}

export interface JiraDouble extends HttpDouble.HttpDouble {
  readonly issues: Map<string, StoredIssue>
  readonly files: Map<string, StoredFile>
  /** `authorization` headers that are let in. */
  readonly allowed: Set<string>
  /** Where content is given: another origin. */
  readonly media: HttpDouble.HttpDouble
  /** How the next pages of searches go wrong. */
  search: "right" | "same token" | "same page" | "wrong isLast" | "empty pages"
  redirectContent: boolean
}

const user = (accountId: string) => ({
  self: `https://double/user?accountId=${accountId}`,
  accountId,
  accountType: "atlassian",
  displayName: `User ${accountId}`,
  active: true
})

const now = "2026-11-22T10:00:00.000+0000"

const transitions: Readonly<Record<string, ReadonlyArray<readonly [id: string, name: string, to: string]>>> = {
  "To Do": [
    ["11", "Start work", "In Progress"],
    ["21", "Close", "Done"]
  ],
  "In Progress": [
    ["21", "Close", "Done"],
    ["31", "Stop", "To Do"],
    ["32", "Give up", "To Do"]
  ],
  Done: [["41", "Reopen", "To Do"]]
}

const refused = (errors: Record<string, string>, messages: ReadonlyArray<string> = []): HttpDouble.Answer => ({
  status: 400,
  body: { errorMessages: messages, errors }
})

const missing: HttpDouble.Answer = {
  status: 404,
  body: { errorMessages: ["Issue does not exist or you do not have permission to see it."], errors: {} }
}

/** The parts of a form, by the rules of RFC 7578. */
const formOf = (asked: HttpDouble.Asked): ReadonlyArray<StoredFile> => {
  const boundary = /boundary=(.+)$/.exec(asked.headers["content-type"] ?? "")?.[1]
  if (boundary === undefined) return []
  const text = asked.body.toString("latin1")
  return text
    .split(`--${boundary}`)
    .slice(1, -1)
    .flatMap((part) => {
      const end = part.indexOf("\r\n\r\n")
      const head = Buffer.from(part.slice(0, end), "latin1").toString("utf8")
      const filename = /filename="([^"]*)"/.exec(head)?.[1]
      return filename === undefined
        ? []
        : [
            {
              id: String(Math.floor(10_000 + Math.random() * 1e9)),
              filename: decodeURIComponent(filename.replace(/%(?!22|0D|0A)/g, "%25")),
              mimeType: /content-type: (.+)/i.exec(head)?.[1]?.trim() ?? "",
              content: Buffer.from(part.slice(end + 4, -2), "latin1")
            }
          ]
    })
}

export const start = (issueCount = 0): Effect.Effect<JiraDouble, never, Scope.Scope> =>
  Effect.gen(function* () {
    const issues = new Map<string, StoredIssue>()
    const files = new Map<string, StoredFile>()
    const links = new Map<string, Json>()
    const tokens = new Map<string, number>()
    let next = 1
    const add = (fields: Json, key = "DEMO"): StoredIssue => {
      const number = next++
      const issue: StoredIssue = {
        id: String(10_000 + number),
        key: `${key}-${number}`,
        fields,
        status: "To Do",
        assignee: null,
        comments: [],
        attachments: [],
        watchers: new Set()
      }
      issues.set(issue.id, issue)
      return issue
    }
    for (let made = 0; made < issueCount; made++) add({ summary: `Issue ${made}`, project: { key: "DEMO" } })
    const find = (idOrKey: string): StoredIssue | undefined =>
      issues.get(idOrKey) ?? [...issues.values()].find(({ key }) => key === idOrKey)
    const fileOf = (file: StoredFile, id: string | number) => ({
      id,
      self: `https://double/rest/api/3/attachment/${file.id}`,
      filename: file.filename,
      author: user("me"),
      created: now,
      size: file.content.length,
      mimeType: file.mimeType,
      content: `https://double/rest/api/3/attachment/content/${file.id}`
    })
    const shown = (issue: StoredIssue, wanted: ReadonlyArray<string> | undefined): Json => {
      const all: Json = {
        ...issue.fields,
        status: { name: issue.status },
        assignee: issue.assignee === null ? null : user(issue.assignee),
        created: now
      }
      const everything = wanted?.some((name) => name === "*all" || name === "*navigable") === true
      return {
        id: issue.id,
        key: issue.key,
        self: `https://double/rest/api/3/issue/${issue.id}`,
        fields: everything ? all : Object.fromEntries(Object.entries(all).filter(([name]) => wanted?.includes(name)))
      }
    }
    /** The forms of queries that it knows: a project, a status, words of a summary, and any with an order. */
    const matching = (jql: string): ReadonlyArray<StoredIssue> | undefined => {
      const [where = ""] = jql.split(/\s*ORDER BY\s*/i)
      const clauses = where.split(/\) AND \(|\s+AND\s+/).map((clause) => clause.replace(/^\(|\)$/g, "").trim())
      let found = [...issues.values()]
      for (const clause of clauses) {
        const match = /^"?(\w+)"?\s*(=|!=|~)\s*"((?:[^"\\]|\\.)*)"$/.exec(clause)
        if (match === null) return undefined
        const [, field = "", operator = "", text = ""] = match
        const value = text.replace(/\\(.)/g, "$1")
        const of = (issue: StoredIssue): string =>
          field === "project"
            ? (issue.key.split("-")[0] ?? "")
            : field === "status"
              ? issue.status
              : String(issue.fields[field] ?? "")
        found = found.filter((issue) =>
          operator === "=" ? of(issue) === value : operator === "!=" ? of(issue) !== value : of(issue).includes(value)
        )
      }
      return found
    }
    const invalidQuery = refused({}, ["Error in the JQL Query: the query of a user that nobody should see in a log"])

    const media = yield* HttpDouble.start(undefined, ({ url }) => {
      const file = files.get(url.pathname.slice(1))
      return file === undefined ? { status: 404 } : { status: 200, body: file.content }
    })

    const route = (asked: HttpDouble.Asked): HttpDouble.Answer | undefined => {
      const { json, method, url } = asked
      if (!double.allowed.has(asked.headers.authorization ?? "")) {
        return { status: 401, body: { errorMessages: ["Client must be authenticated"], errors: {} } }
      }
      const body = HttpDouble.fields(json)
      const path = url.pathname
      const query = url.searchParams
      const startAt = Number(query.get("startAt") ?? 0)
      const maxResults = Math.min(Number(query.get("maxResults") ?? 50), 50)
      const counted = (all: ReadonlyArray<unknown>) => ({
        startAt,
        maxResults,
        total: all.length,
        isLast: startAt + maxResults >= all.length,
        values: all.slice(startAt, startAt + maxResults)
      })

      if (path === "/rest/api/3/myself") return { status: 200, body: user("me") }
      if (path === "/rest/api/3/search" || path === "/rest/api/2/search") {
        return { status: 410, body: { errorMessages: ["The requested API has been removed."], errors: {} } }
      }
      if (path === "/rest/api/3/search/approximate-count") {
        const found = matching(String(body["jql"]))
        return found === undefined ? invalidQuery : { status: 200, body: { count: found.length } }
      }
      if (path === "/rest/api/3/search/jql") {
        const found = matching(String(body["jql"]))
        if (found === undefined) return invalidQuery
        const token = body["nextPageToken"]
        const from = token === undefined ? 0 : tokens.get(String(token))
        if (from === undefined) return refused({}, ["The nextPageToken is invalid or expired."])
        const size = Math.min(Number(body["maxResults"] ?? 50), 20)
        const empty = double.search === "empty pages"
        const to = empty ? from : from + size
        const again = double.search === "same page" && from > 0
        const page = empty ? [] : again ? found.slice(0, size) : found.slice(from, to)
        const more = empty || to < found.length
        const made = double.search === "same token" ? "the-same" : randomUUID()
        tokens.set(made, to)
        const wanted = Array.isArray(body["fields"]) ? body["fields"].map(String) : undefined
        return {
          status: 200,
          body: {
            issues: page.map((issue) => shown(issue, wanted ?? [])),
            isLast: double.search === "wrong isLast" ? from === 0 : !more,
            ...(more || again ? { nextPageToken: made } : {})
          }
        }
      }
      if (path === "/rest/api/3/project/search") {
        const all = ["DEMO", "OTHER"].map((key, at) => ({
          id: String(at + 1),
          key,
          name: `Project ${key}`,
          projectTypeKey: "software",
          simplified: false,
          style: "classic",
          isPrivate: false,
          self: "https://double"
        }))
        return { status: 200, body: counted(all) }
      }
      if (path === "/rest/api/3/user/search") {
        const all = ["ann", "bob", "cid"].filter((name) => name.startsWith(query.get("query") ?? ""))
        return { status: 200, body: all.slice(startAt, startAt + 2).map(user) }
      }
      if (path === "/rest/api/3/field") {
        const system = { custom: false, orderable: true, navigable: true, searchable: true }
        return {
          status: 200,
          body: [
            {
              id: "summary",
              key: "summary",
              name: "Summary",
              ...system,
              clauseNames: ["summary"],
              schema: { type: "string", system: "summary" }
            },
            { id: "customfield_10010", name: "Points", ...system, custom: true, clauseNames: ["cf[10010]"] }
          ]
        }
      }
      if (path === "/rest/api/3/issueLinkType") {
        return {
          status: 200,
          body: { issueLinkTypes: [{ id: "1", name: "Blocks", inward: "is blocked by", outward: "blocks" }] }
        }
      }
      if (path === "/rest/api/3/issueLink" && method === "POST") {
        const ends = [HttpDouble.fields(body["inwardIssue"])["key"], HttpDouble.fields(body["outwardIssue"])["key"]]
        if (ends.some((key) => find(String(key)) === undefined)) return missing
        links.set(String(links.size + 1), body)
        return { status: 201 }
      }
      const link = /^\/rest\/api\/3\/issueLink\/(\d+)$/.exec(path)
      if (link !== null) return links.delete(link[1] ?? "") ? { status: 204 } : missing

      const create = (input: Json): HttpDouble.Answer => {
        const fields = HttpDouble.fields(input["fields"])
        const errors: Record<string, string> = {}
        if (typeof fields["summary"] !== "string") errors["summary"] = "You must specify a summary of the issue."
        if (HttpDouble.fields(fields["project"])["key"] === undefined)
          errors["project"] = "Specify a valid project ID or key"
        const { description } = fields
        if (description !== undefined && HttpDouble.fields(description)["type"] !== "doc") {
          errors["description"] = `Operation value must be an Atlassian Document: ${String(description)}`
        }
        if (Object.keys(errors).length > 0) return refused(errors)
        const issue = add({ ...fields }, String(HttpDouble.fields(fields["project"])["key"]))
        return {
          status: 201,
          body: { id: issue.id, key: issue.key, self: `https://double/rest/api/3/issue/${issue.id}` }
        }
      }
      if (path === "/rest/api/3/issue" && method === "POST") return create(body)
      if (path === "/rest/api/3/issue/bulk" && method === "POST") {
        const inputs = Array.isArray(body["issueUpdates"]) ? body["issueUpdates"] : []
        const made = inputs.map((input) => create(HttpDouble.fields(input)))
        const errors = made.flatMap((one, at) =>
          one.status === 201 ? [] : [{ status: one.status, elementErrors: one.body, failedElementNumber: at }]
        )
        const done = made.filter(({ status }) => status === 201).map((one) => one.body)
        return { status: done.length === 0 ? 400 : 201, body: { issues: done, errors } }
      }

      const attachment = /^\/rest\/api\/3\/attachment\/(content\/)?(\w+)$/.exec(path)
      if (attachment !== null) {
        const file = files.get(attachment[2] ?? "")
        if (file === undefined) return missing
        if (attachment[1] !== undefined) {
          return double.redirectContent
            ? { status: 303, headers: { location: `${media.origin}/${file.id}` } }
            : { status: 200, body: file.content }
        }
        if (method === "DELETE") {
          files.delete(file.id)
          return { status: 204 }
        }
        return { status: 200, body: fileOf(file, Number(file.id)) }
      }

      const board = /^\/rest\/agile\/1\.0\/(board|sprint)(?:\/(\d+)\/(issue|sprint))?$/.exec(path)
      if (board !== null) {
        const [, thing, id, list] = board
        if (list === undefined) {
          const all = Array.from({ length: 60 }, (_, at) => ({
            id: at + 1,
            name: `Board ${at + 1}`,
            type: at % 2 === 0 ? "scrum" : "kanban",
            self: "https://double"
          }))
          const wanted = query.get("type")
          return { status: 200, body: counted(all.filter(({ type }) => wanted === null || type === wanted)) }
        }
        if (id !== "1") return missing
        if (list === "sprint") {
          const states = query.get("state")?.split(",")
          const all = ["closed", "active", "future"].map((state, at) => ({
            id: at + 1,
            state,
            name: `Sprint ${at + 1}`,
            originBoardId: 1,
            self: "https://double"
          }))
          return {
            status: 200,
            body: counted(all.filter(({ state }) => states === undefined || states.includes(state)))
          }
        }
        const all = [...issues.values()].slice(0, thing === "board" ? undefined : 3)
        return {
          status: 200,
          body: {
            startAt,
            maxResults,
            total: all.length,
            issues: all
              .slice(startAt, startAt + maxResults)
              .map((issue) => shown(issue, query.get("fields")?.split(",") ?? ["*all"]))
          }
        }
      }

      const one = /^\/rest\/api\/3\/issue\/([^/]+)(?:\/(\w+)(?:\/([^/]+))?)?$/.exec(path)
      if (one === null) return undefined
      const [, key = "", part, id] = one
      const issue = find(decodeURIComponent(key))
      if (issue === undefined) return missing
      const commentOf = (comment: StoredIssue["comments"][number]) => ({
        ...comment,
        self: `https://double/rest/api/3/issue/${issue.id}/comment/${comment.id}`,
        author: user("me"),
        updateAuthor: user("me")
      })
      switch (part) {
        case undefined: {
          if (method === "GET") return { status: 200, body: shown(issue, query.get("fields")?.split(",") ?? ["*all"]) }
          if (method === "DELETE") {
            issues.delete(issue.id)
            return { status: 204 }
          }
          const changed = HttpDouble.fields(body["fields"])
          if ("summary" in changed && changed["summary"] === "") return refused({ summary: "secret text of the user" })
          issue.fields = { ...issue.fields, ...changed }
          return { status: 204 }
        }
        case "assignee":
          issue.assignee = body["accountId"] === null ? null : String(body["accountId"])
          return { status: 204 }
        case "transitions": {
          const all = transitions[issue.status] ?? []
          if (method === "GET") {
            return {
              status: 200,
              body: {
                expand: "transitions",
                transitions: all.map(([id, name, to]) => ({
                  id,
                  name,
                  to: { self: "https://double", description: "", iconUrl: "", name: to, id: to },
                  hasScreen: false,
                  isGlobal: false,
                  isInitial: false,
                  isConditional: false,
                  isLooped: false,
                  isAvailable: true
                }))
              }
            }
          }
          const wanted = all.find(([each]) => each === HttpDouble.fields(body["transition"])["id"])
          if (wanted === undefined) return refused({}, ["Transition is not valid"])
          issue.status = wanted[2]
          issue.fields = { ...issue.fields, ...HttpDouble.fields(body["fields"]) }
          const added = HttpDouble.fields(body["update"])["comment"]
          for (const each of Array.isArray(added) ? added : []) {
            const text = HttpDouble.fields(HttpDouble.fields(each)["add"])["body"]
            issue.comments.push({ id: String(next++), body: text, created: now, updated: now })
          }
          return { status: 204 }
        }
        case "comment": {
          const found = issue.comments.find((comment) => comment.id === id)
          if (id !== undefined && found === undefined) return missing
          if (method !== "GET" && method !== "DELETE" && HttpDouble.fields(body["body"])["type"] !== "doc") {
            return refused({ comment: "Comment body is not valid!" })
          }
          if (method === "POST") {
            const comment = {
              id: String(next++),
              body: body["body"],
              created: now,
              updated: now,
              ...(body["visibility"] === undefined ? {} : { visibility: body["visibility"] })
            }
            issue.comments.push(comment)
            return { status: 201, body: commentOf(comment) }
          }
          if (found !== undefined && method === "PUT") {
            found.body = body["body"]
            return { status: 200, body: commentOf(found) }
          }
          if (found !== undefined && method === "DELETE") {
            issue.comments.splice(issue.comments.indexOf(found), 1)
            return { status: 204 }
          }
          const all = query.get("orderBy") === "-created" ? [...issue.comments].reverse() : issue.comments
          const some = all.slice(startAt, startAt + maxResults)
          return {
            status: 200,
            body: { startAt, maxResults, total: all.length, comments: some.map(commentOf) }
          }
        }
        case "changelog":
          return {
            status: 200,
            body: counted(
              Array.from({ length: 55 }, (_, at) => ({
                id: String(at),
                author: user("me"),
                created: now,
                items: [
                  {
                    field: "status",
                    fieldtype: "jira",
                    fieldId: "status",
                    from: "1",
                    fromString: "To Do",
                    to: "2",
                    toString: "Done"
                  }
                ]
              }))
            )
          }
        case "attachments": {
          if (asked.headers["x-atlassian-token"] !== "no-check") {
            return { status: 403, body: { errorMessages: ["XSRF check failed"], errors: {} } }
          }
          const made = formOf(asked)
          for (const file of made) {
            files.set(file.id, file)
            issue.attachments.push(file.id)
          }
          return { status: 200, body: made.map((file) => fileOf(file, file.id)) }
        }
        case "watchers": {
          if (method === "POST") issue.watchers.add(typeof json === "string" ? json : "me")
          else if (method === "DELETE") issue.watchers.delete(query.get("accountId") ?? "")
          else {
            const watchers = [...issue.watchers].map(user)
            return {
              status: 200,
              body: {
                self: "https://double",
                isWatching: issue.watchers.has("me"),
                watchCount: watchers.length,
                watchers
              }
            }
          }
          return { status: 204 }
        }
        default:
          return undefined
      }
    }
    const http = yield* HttpDouble.start(new OpenApi("jira-v3.json", "", ["User.accountId"]), (asked) => route(asked))
    const double: JiraDouble = Object.assign(http, {
      issues,
      files,
      media,
      allowed: new Set(["Bearer good-token", `Basic ${Buffer.from("me@example.com:api-token").toString("base64")}`]),
      search: "right" as const,
      redirectContent: false
    })
    return double
  })
