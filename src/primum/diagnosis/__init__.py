"""The processes of encrypted diagnoses: dealer, server A, server B; and the data owner's and model owner's functions.

What comes in: a trained model, images. What goes out: a `Diagnosis`, at the data owner only. The mathematics is in
`primum.mpc`; here are files, disks, sockets and clocks. Read first: `messages.py`, then `server.py`.

| file | what | who |
|---|---|---|
| roles.py | state folder, keys, role card | dealer, servers |
| deploy.py, deployment.py | the four files of a deployment | model owner; everybody |
| dealer.py | the dealer's process | crypto provider |
| server.py, links.py, endpoint.py | a server's process, its connections, its HTTPS | servers |
| session.py | the keys of a connection | dealer, servers |
| numbers.py | numbers used, on disk; the journal | dealer, servers |
| requests.py | requests and answers, sealed and opened | data owner, servers |
| data_owner.py | from images to diagnoses, online or by file | data owner |
| channel.py, messages.py, files.py | TLS frames, messages, JSON files | all |

Three institutions, each with a state folder of its own:

    primum dealer --init dealer.card --address HOST:PORT        then, with its file:  primum dealer dealer.json
    primum serve  --init a.card --address HOST:PORT                                   primum serve server-a.json
    primum serve  --init b.card --address HOST:PORT                                   primum serve server-b.json

The model owner collects the three cards and runs `primum deploy` (deploy.py); a data owner needs public.json.
"""
