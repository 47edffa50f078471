"""Makes a data folder with a program of some earlier commit, and writes down what that program answered about it.

Usage: old_folder.py KALAMDB OUTPUT, where KALAMDB is the program. Writes OUTPUT.tar.gz, the folder as the program left
it, and OUTPUT.json, the questions and its answers. The tests open the folder and ask again; nobody edits either file.
"""

import gzip
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request
import zlib

# What is deleted must not expire before the test runs, years later: the answers are compared.
SETTINGS = {
    "DELETION__SOFT_DELETE_RETENTION_DAYS": "36500",
    "AUDIT__RETENTION_DAYS": "36500",
    "MEDIA__UNREFERENCED_TTL_HOURS": "8760",
    "CONSOLIDATION__INTERVAL_SECONDS": "86400",
    "SERVER__PORT": "0",
}
USERS = ["ann", "Bob", "auth0|123", "cat"]
COLUMNS = {
    "messages": 'msgId, conversationId, conversationType, "from", "timestamp", content, contentRef, metadata',
    "deletedMessages": 'msgId, conversationId, conversationType, "from", "timestamp", content, contentRef, metadata, deletedAt, expiresAt',
    "conversations": "conversationId, conversationType, userId, firstMsgId, lastMsgId, created, updated, storagePath, metadata, lastReadMsgId, unreadCount",
    "conversationUsers": "conversationId, userId, role, created, updated, metadata",
    "auditLog": 'auditId, "timestamp", actor, action, target, details',
}


class Server:
    def __init__(self, program, data):
        self.program, self.data, self.tokens = program, data, {}
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("KALAMDB_")}
        self.env |= {f"KALAMDB_{name}": value for name, value in SETTINGS.items()}

    def start(self):
        command = [self.program, "serve", "--data", self.data]
        self.process = subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, text=True, cwd=os.path.dirname(self.data))
        self.url = re.search(r"listens on (http://[^,]+),", self.process.stdout.readline()).group(1)

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(60)

    def token(self, user):
        if user not in self.tokens:
            role = ["--role", "admin"] if user == "root" else []
            command = [self.program, "token", "--user", user, "--data", self.data, "--ttl", "1h", *role]
            self.tokens[user] = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True).stdout.strip()
        return self.tokens[user]

    def ask(self, user, path, body=None, content_type="application/json"):
        headers = {"Authorization": f"Bearer {self.token(user)}", "Content-Type": content_type}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, body, headers), timeout=60) as answer:
            return answer.read()

    def sql(self, user, sql, *params):
        return json.loads(self.ask(user, "/api/v1/query", json.dumps({"sql": sql, "params": params}).encode()))

    def send(self, user, conversation, content, **more):
        body = {"conversationId": conversation, "content": content} | more
        return json.loads(self.ask(user, "/api/v1/messages", json.dumps(body).encode()))["msgId"]

    def upload(self, user, conversation, kind, data):
        fields = [("conversationId", "", conversation.encode()), ("conversationType", "", kind.encode()), ("file", '; filename="a.png"', data)]
        body = b"".join(b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (n.encode(), f.encode(), d) for n, f, d in fields)
        answer = self.ask(user, "/api/v1/media/upload", body + b"--x--\r\n", "multipart/form-data; boundary=x")
        return json.loads(answer)["contentRef"]

    def admin(self, what, user=None):
        self.ask("root", f"/api/admin/{what}", json.dumps({"userId": user} if user else {}).encode())


def picture(width, height):
    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(3 * width)) for y in range(height))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def fill(server):
    """A history that leaves rows in every family: hot, cold, deleted in both, restored, edited, shared, gone."""
    trip = [server.send("ann", "trip", f"text {n} of the trip, ä 🙂", metadata={"n": n}) for n in range(8)]
    server.send("ann", "trip", "an answer", **{"from": "assistant"})
    server.send("ann", "notes", "long text. " * 12_000)
    server.send("Bob", "trip", "another's conversation of that id")
    server.send("auth0|123", "a/b c", "strange ids")
    server.sql("ann", "INSERT INTO conversations (conversationId, conversationType, metadata) VALUES ('g', 'group', '{\"title\": \"Trip\"}')")
    for user in ["Bob", "cat"]:
        server.sql("ann", f"INSERT INTO conversationUsers (conversationId, userId) VALUES ('g', '{user}')")
    server.sql("ann", "UPDATE conversationUsers SET role = 'admin' WHERE conversationId = 'g' AND userId = 'Bob'")
    group = [server.send(user, "g", f"{user} says {n}", conversationType="group") for n in range(3) for user in ["ann", "Bob", "cat"]]
    server.send("Bob", "g", "a long one in the group. " * 6_000, conversationType="group")
    photo = server.upload("ann", "trip", "ai", picture(400, 300))
    server.send("ann", "trip", "see", contentRef=photo)
    shared = server.upload("Bob", "g", "group", picture(300, 400))
    server.send("Bob", "g", "look", conversationType="group", contentRef=shared)
    server.upload("ann", "trip", "ai", picture(20, 20))
    server.send("ann", "gone", "a conversation that is deleted")
    server.admin("consolidate")

    server.sql("ann", f"UPDATE messages SET content = 'edited when it was cold' WHERE msgId = {trip[1]}")
    server.sql("ann", f"DELETE FROM messages WHERE msgId IN ({trip[2]}, {trip[3]}, {trip[4]})")
    server.sql("ann", f"UPDATE deletedMessages SET deletedAt = NULL WHERE msgId = {trip[3]}")
    server.sql("ann", f"DELETE FROM deletedMessages WHERE msgId = {trip[4]}")
    server.sql("Bob", f"UPDATE messages SET metadata = '{{\"edited\": true}}' WHERE msgId = {group[1]}")
    server.sql("cat", f"UPDATE conversations SET lastReadMsgId = {group[4]} WHERE conversationId = 'g'")
    server.sql("cat", "DELETE FROM conversationUsers WHERE conversationId = 'g' AND userId = 'cat'")
    server.send("ann", "gone", "its second message, hot")
    server.sql("ann", "DELETE FROM conversations WHERE conversationId = 'gone'")
    server.admin("consolidate", "ann")
    server.end(signal.SIGKILL)
    server.start()

    later = [server.send("ann", "trip", f"after the crash {n}") for n in range(4)]
    server.sql("ann", f"UPDATE messages SET content = 'edited while it was hot' WHERE msgId = {later[0]}")
    server.sql("ann", f"DELETE FROM messages WHERE msgId = {later[1]}")
    server.admin("compact", "ann")
    server.send("auth0|123", "a/b c", "hot and alone")
    server.send("Bob", "g", "without cat", conversationType="group")
    server.sql("ann", f"UPDATE messages SET content = $1 WHERE msgId = {trip[5]}", "long when it was edited. " * 5_000)
    server.sql("root", "SELECT content FROM ann.messages LIMIT 1")


def questions(server):
    for user in USERS:
        for table, columns in COLUMNS.items():
            sql = f"SELECT {columns} FROM {table} ORDER BY 1, 2"
            yield {"user": user, "sql": sql, "rows": server.sql(user, sql)["rows"]}


def files(server):
    for user in USERS:
        rows = server.sql(user, "SELECT DISTINCT contentRef FROM messages WHERE contentRef IS NOT NULL ORDER BY 1")["rows"]
        for [path] in rows:
            data = server.ask(user, "/api/v1/content/" + urllib.parse.quote(path, safe=""))
            yield {"user": user, "contentRef": path, "bytes": len(data), "crc32": zlib.crc32(data)}


def pack(folder, target):
    """The folder as an archive that says nothing of who made it, or when; without what RocksDB writes for people, and the secret."""
    def anonymous(entry):
        name = os.path.basename(entry.name)
        if name.startswith(("LOG", "LOCK", "OPTIONS")) or name == "secret":
            return None
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(folder, arcname="data", filter=anonymous)
    with open(target, "wb") as out, gzip.GzipFile("", "wb", 9, out, mtime=0) as packed:
        packed.write(plain.getvalue())


def main():
    program, output = os.path.abspath(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(program, os.path.join(folder, "data"))
        server.start()
        fill(server)
        answers = {"questions": list(questions(server)), "files": list(files(server))}
        server.end(signal.SIGTERM)
        pack(server.data, output + ".tar.gz")
    with open(output + ".json", "w") as out:
        json.dump(answers, out, indent=1, ensure_ascii=False)
        out.write("\n")


if __name__ == "__main__":
    main()
